import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;

/**
 * W1 with Kafka Streams. The last argument says which store: "rocks" is its default, RocksDB with a changelog topic and
 * the cache on; "mem" is its best case, in memory and without a changelog.
 */
public final class Streams {
  private static final AtomicLong SEEN = new AtomicLong(), ALERTS = new AtomicLong(), STARTED_NS = new AtomicLong();
  private static final int STATE_BYTES = 61;

  private static final class ReadingSerde implements Serde<Reading> {
    @Override
    public Serializer<Reading> serializer() {
      return (topic, r) -> r == null ? null : ByteBuffer.allocate(STATE_BYTES)
          .putDouble(r.meanUtil).putDouble(r.varianceUtil).putDouble(r.meanPower).putDouble(r.variancePower)
          .putDouble(r.windowSum).putLong(r.lastBusyMs).putLong(r.window).putInt(r.windowCount)
          .put((byte) (r.alerted ? 1 : 0)).array();
    }

    @Override
    public Deserializer<Reading> deserializer() {
      return (topic, bytes) -> {
        if (bytes == null) {
          return null;
        }
        ByteBuffer b = ByteBuffer.wrap(bytes);
        Reading r = new Reading();
        r.meanUtil = b.getDouble();
        r.varianceUtil = b.getDouble();
        r.meanPower = b.getDouble();
        r.variancePower = b.getDouble();
        r.windowSum = b.getDouble();
        r.lastBusyMs = b.getLong();
        r.window = b.getLong();
        r.windowCount = b.getInt();
        r.alerted = b.get() == 1;
        return r;
      };
    }
  }

  private static final class Fold implements Processor<byte[], byte[], byte[], byte[]> {
    private final ObjectMapper json = new ObjectMapper();
    private KeyValueStore<String, Reading> store;

    @Override
    public void init(ProcessorContext<byte[], byte[]> context) {
      store = context.getStateStore("readings");
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
      STARTED_NS.compareAndSet(0, System.nanoTime());
      JsonNode event;
      try {
        event = json.readTree(record.value());
      } catch (IOException error) {
        throw new UncheckedIOException(error);
      }
      String gpu = event.get("gpu").asText();
      Reading state = store.get(gpu);
      state = state == null ? new Reading() : state;
      double util = event.get("util").asDouble(), power = event.get("power").asDouble();
      if (state.step(event.get("ts").asLong(), util, power)) {
        ALERTS.incrementAndGet();
      }
      store.put(gpu, state);
      SEEN.incrementAndGet();
    }
  }

  public static void main(String[] args) throws Exception {
    long count = Long.parseLong(args[2]);
    KafkaStreams streams = new KafkaStreams(topology(args[1], args[3].equals("mem")), settings(args[0]));
    streams.start();
    while (SEEN.get() < count) {
      Thread.sleep(1);
    }
    Reading.report(SEEN.get(), STARTED_NS.get(), ALERTS.get());
  }

  private static Topology topology(String topic, boolean inMemory) {
    Topology topology = new Topology();
    var bytes = Serdes.ByteArray().deserializer();
    topology.addSource("in", bytes, bytes, topic);
    topology.addProcessor("fold", Fold::new, "in");
    var supplier = inMemory ? Stores.inMemoryKeyValueStore("readings") : Stores.persistentKeyValueStore("readings");
    StoreBuilder<KeyValueStore<String, Reading>> store =
        Stores.keyValueStoreBuilder(supplier, Serdes.String(), new ReadingSerde());
    topology.addStateStore(inMemory ? store.withLoggingDisabled() : store.withCachingEnabled(), "fold");
    return topology;
  }

  private static Properties settings(String bootstrap) throws IOException {
    Properties settings = new Properties();
    settings.put("application.id", "peer-" + System.nanoTime());
    settings.put("bootstrap.servers", bootstrap);
    settings.put("num.stream.threads", "1");
    settings.put("auto.offset.reset", "earliest");
    settings.put("state.dir", Files.createTempDirectory("streams").toString());
    settings.put("max.poll.records", "10000");
    settings.put("fetch.max.bytes", "52428800");
    settings.put("max.partition.fetch.bytes", "8388608");
    return settings;
  }
}
