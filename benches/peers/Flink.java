// The rows of `benches/dataflow.rs` through Apache Flink: mean by part and window, one core, warm. See `run` beside this file.

import java.time.Duration;

import org.apache.flink.api.common.JobExecutionResult;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.typeinfo.TypeHint;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.connector.datagen.source.DataGeneratorSource;
import org.apache.flink.connector.datagen.source.GeneratorFunction;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.streaming.api.windowing.assigners.SlidingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.assigners.WindowAssigner;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;

public class Flink {
    static final long START = 1_700_000_000_000L;
    static final String[] PARTS = new String[1000];
    static { for (int part = 0; part < PARTS.length; part++) PARTS[part] = String.format("part-%03d", part); }

    static Tuple3<Long, String, Double> row(long n) {
        return Tuple3.of(START + n / 100 - n * 7919 % 5, PARTS[(int) ((n * 2_654_435_761L % (1L << 32) >> 12) % 1000)], 74 + n % 17 * 0.01);
    }

    static class Mean implements AggregateFunction<Tuple3<Long, String, Double>, double[], Double> {
        @Override public double[] createAccumulator() { return new double[2]; }
        @Override public double[] add(Tuple3<Long, String, Double> row, double[] sums) { sums[0]++; sums[1] += row.f2; return sums; }
        @Override public Double getResult(double[] sums) { return sums[1] / sums[0]; }
        @Override public double[] merge(double[] a, double[] b) { return new double[] {a[0] + b[0], a[1] + b[1]}; }
    }

    /** Rows a second. */
    static double run(long rows, WindowAssigner<Object, TimeWindow> windows) throws Exception {
        StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(1);
        env.getConfig().enableObjectReuse();
        var type = new TypeHint<Tuple3<Long, String, Double>>() {}.getTypeInfo();
        GeneratorFunction<Long, Tuple3<Long, String, Double>> made = Flink::row;
        var clock = WatermarkStrategy.<Tuple3<Long, String, Double>>forBoundedOutOfOrderness(Duration.ofMillis(5));
        env.fromSource(new DataGeneratorSource<>(made, rows, type), clock.withTimestampAssigner((row, time) -> row.f0), "rows")
            .keyBy(row -> row.f1)
            .window(windows)
            .aggregate(new Mean())
            .sinkTo(new DiscardingSink<>());
        JobExecutionResult result = env.execute();
        return rows * 1000.0 / result.getNetRuntime();
    }

    public static void main(String[] arguments) throws Exception {
        long rows = Long.parseLong(arguments[0]);
        Duration second = Duration.ofSeconds(1);
        for (int turn = 0; turn < 3; turn++) {
            System.out.printf("flink tumbling: %.0f rows/s (run %d)%n", run(rows, TumblingEventTimeWindows.of(second)), turn + 1);
        }
        System.out.printf("flink sliding, 10 windows a row: %.0f rows/s%n", run(rows, SlidingEventTimeWindows.of(second, Duration.ofMillis(100))));
    }
}
