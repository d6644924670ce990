/** What both Java peers know of one GPU, and the work that every peer does with a reading. */
final class Reading {
  private static final double ALPHA = 0.05;
  private static final double IDLE_UTIL_MAX = 5;
  private static final long IDLE_AFTER_MS = 600_000;
  private static final long WINDOW_MS = 300_000;

  double meanUtil, varianceUtil, meanPower, variancePower, windowSum;
  long lastBusyMs, window;
  int windowCount;
  boolean alerted;

  /** Folds one reading; tells whether it raises the idle alert. */
  boolean step(long timeMs, double util, double power) {
    double d = util - meanUtil;
    meanUtil += ALPHA * d;
    varianceUtil = (1 - ALPHA) * (varianceUtil + ALPHA * d * d);
    d = power - meanPower;
    meanPower += ALPHA * d;
    variancePower = (1 - ALPHA) * (variancePower + ALPHA * d * d);
    if (timeMs / WINDOW_MS != window) {
      window = timeMs / WINDOW_MS;
      windowSum = 0;
      windowCount = 0;
    }
    windowSum += util;
    windowCount++;
    if (util > IDLE_UTIL_MAX || lastBusyMs == 0) {
      lastBusyMs = timeMs;
      alerted = false;
      return false;
    }
    if (alerted || timeMs - lastBusyMs < IDLE_AFTER_MS) {
      return false;
    }
    alerted = true;
    return true;
  }

  /** Prints what the harness reads, and ends the process at once. */
  static void report(long messages, long startedNs, long alerts) {
    double rate = messages / ((System.nanoTime() - startedNs) / 1e9);
    System.out.printf("{\"messages_per_s\": %.1f, \"messages\": %d, \"alerts\": %d}%n", rate, messages, alerts);
    System.out.flush();
    Runtime.getRuntime().halt(0);
  }
}
