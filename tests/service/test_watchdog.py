"""The watchdog ends a process that is stuck, and no other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from service.watchdog import STUCK_EXIT_CODE, Watchdog
from tests.fakes.clock import ManualClock

ROOT = Path(__file__).parents[2]

STUCK = """
import threading
from service.clock import SystemClock
from service.watchdog import Watchdog

def waits_for_a_broker_that_is_gone():
    threading.Event().wait()

def carries_on_beside():
    threading.Event().wait()

threading.Thread(target=carries_on_beside, name="beside", daemon=True).start()
dog = Watchdog(0.2, SystemClock())
dog.start()
dog.tick()
waits_for_a_broker_that_is_gone()
"""

# Time passes with the ticks alone, half of what is allowed with each; the watchdog's thread looks in between. So a slow
# machine makes no difference, and the end is a condition: a hundred looks, and time in
# which a silent loop would have been ended five hundred times.
TICKING = """
import threading
from service.watchdog import Watchdog

class Clock:
    now_s, looks = 0.0, 0
    def monotonic_s(self):
        if threading.current_thread().name == "watchdog":
            self.looks += 1
        return self.now_s

clock = Clock()
dog = Watchdog(0.02, clock)
dog.start()
while clock.looks < 100 or clock.now_s < 10:
    clock.now_s += 0.01
    dog.tick()
dog.stop()
print("ended by itself")
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)


def test_a_loop_that_does_not_come_round_ends_the_process_with_all_stacks():
    done = run(STUCK)
    assert done.returncode == STUCK_EXIT_CODE == 70
    assert "the loop is stuck" in done.stdout + done.stderr
    for frame in ("waits_for_a_broker_that_is_gone", "carries_on_beside", "_watch"):
        assert f"in {frame}" in done.stderr


def test_a_loop_that_comes_round_is_left_alone():
    done = run(TICKING)
    assert (done.returncode, done.stdout) == (0, "ended by itself\n"), done.stderr


def test_stuck_means_more_than_the_time_allowed_since_the_last_tick():
    clock = ManualClock()
    dog = Watchdog(120, clock)
    clock.advance(120)
    assert not dog.is_stuck()
    clock.advance(1)
    assert dog.is_stuck()
    dog.tick()
    assert not dog.is_stuck()
    clock.step_wall(10_000)  # somebody sets the clock: no time has passed
    assert not dog.is_stuck()
