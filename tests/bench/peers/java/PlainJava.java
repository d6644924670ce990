import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** W1 as one would write it by hand in Java: KafkaConsumer, Jackson's streaming parser and a HashMap. */
public final class PlainJava {
  private static final JsonFactory JSON = new JsonFactory();
  private static final Map<String, Reading> STATES = new HashMap<>();

  public static void main(String[] args) throws Exception {
    long count = Long.parseLong(args[2]), seen = 0, startedNs = 0, alerts = 0;
    try (var consumer = new KafkaConsumer<byte[], byte[]>(settings(args[0]))) {
      consumer.subscribe(List.of(args[1]));
      while (seen < count) {
        ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofSeconds(1));
        if (startedNs == 0 && !records.isEmpty()) {
          startedNs = System.nanoTime();
        }
        for (ConsumerRecord<byte[], byte[]> record : records) {
          alerts += fold(record.value()) ? 1 : 0;
          seen++;
        }
        if (!records.isEmpty()) {
          consumer.commitAsync();
        }
      }
      Reading.report(seen, startedNs, alerts);
    }
  }

  private static Properties settings(String bootstrap) {
    Properties settings = new Properties();
    settings.put("bootstrap.servers", bootstrap);
    settings.put("group.id", "peer-" + System.nanoTime());
    settings.put("auto.offset.reset", "earliest");
    settings.put("enable.auto.commit", "false");
    settings.put("max.poll.records", "10000");
    settings.put("fetch.max.bytes", "52428800");
    settings.put("max.partition.fetch.bytes", "8388608");
    settings.put("key.deserializer", ByteArrayDeserializer.class);
    settings.put("value.deserializer", ByteArrayDeserializer.class);
    return settings;
  }

  private static boolean fold(byte[] value) throws Exception {
    String gpu = null;
    long timeMs = 0;
    double util = 0, power = 0;
    try (JsonParser parser = JSON.createParser(value)) {
      parser.nextToken();
      while (parser.nextToken() == JsonToken.FIELD_NAME) {
        String name = parser.currentName();
        parser.nextToken();
        switch (name) {
          case "gpu" -> gpu = parser.getText();
          case "ts" -> timeMs = parser.getLongValue();
          case "util" -> util = parser.getDoubleValue();
          case "power" -> power = parser.getDoubleValue();
          default -> parser.skipChildren();
        }
      }
    }
    return STATES.computeIfAbsent(gpu, unseen -> new Reading()).step(timeMs, util, power);
  }
}
