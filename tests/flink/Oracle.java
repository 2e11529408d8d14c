// Windows of Apache Flink over streams of out-of-order rows, one job for some of them: what fired, and which rows were late.
//
// stdin:  S <number> <tumbling|sliding|session> <size or gap> <slide> <offset> <lateness> <delay>    a stream, then its rows:
//         R <part> <time> <value>
// stdout: F <stream> <part> <start> <end> <count> <sum> <mean> <min> <max>     a firing, in order
//         L <stream> <row>                                                     a late row, in order, by its place in the stream
//
// Times are milliseconds. The watermark follows every row, as Flink's own bounded strategy states it (newest time - delay - 1), but
// without its timer, so that a run always gives the same.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;

import org.apache.flink.api.common.eventtime.Watermark;
import org.apache.flink.api.common.eventtime.WatermarkGenerator;
import org.apache.flink.api.common.eventtime.WatermarkOutput;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.typeinfo.TypeHint;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple4;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.SingleOutputStreamOperator;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.EventTimeSessionWindows;
import org.apache.flink.streaming.api.windowing.assigners.SlidingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.assigners.WindowAssigner;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.CloseableIterator;
import org.apache.flink.util.Collector;
import org.apache.flink.util.OutputTag;

public class Oracle {
    /** Streams of one job: each has tasks and buffers of its own. */
    static final int STREAMS_A_JOB = 25;

    /** Part, time, value, place in the stream. */
    public static class Row extends Tuple4<String, Long, Double, Integer> {
        public Row() {}
        Row(String part, long time, double value, int place) { super(part, time, value, place); }
    }

    record Stream(int number, String kind, long size, long slide, long offset, long lateness, long delay, List<Row> rows) {}

    /** The watermark after each row. */
    static class EveryRow implements WatermarkGenerator<Row> {
        private final long delay;
        private long newest;
        EveryRow(long delay) { this.delay = delay; this.newest = Long.MIN_VALUE + delay + 1; }
        @Override public void onEvent(Row row, long time, WatermarkOutput out) {
            newest = Math.max(newest, time);
            out.emitWatermark(new Watermark(newest - delay - 1));
        }
        @Override public void onPeriodicEmit(WatermarkOutput out) {}
    }

    /** Count, sum, least, largest. */
    static class Figures implements AggregateFunction<Row, double[], double[]> {
        @Override public double[] createAccumulator() { return new double[] {0, 0, Double.POSITIVE_INFINITY, Double.NEGATIVE_INFINITY}; }
        @Override public double[] add(Row row, double[] a) {
            return new double[] {a[0] + 1, a[1] + row.f2, Math.min(a[2], row.f2), Math.max(a[3], row.f2)};
        }
        @Override public double[] getResult(double[] a) { return a; }
        @Override public double[] merge(double[] a, double[] b) {
            return new double[] {a[0] + b[0], a[1] + b[1], Math.min(a[2], b[2]), Math.max(a[3], b[3])};
        }
    }

    static class Fired extends ProcessWindowFunction<double[], String, String, TimeWindow> {
        private final int stream;
        Fired(int stream) { this.stream = stream; }
        @Override public void process(String part, Context context, Iterable<double[]> all, Collector<String> out) {
            TimeWindow window = context.window();
            for (double[] a : all) {
                out.collect("F " + stream + " " + part + " " + window.getStart() + " " + window.getEnd() + " " + (long) a[0] + " " + a[1]
                    + " " + a[1] / a[0] + " " + a[2] + " " + a[3]);
            }
        }
    }

    static WindowAssigner<Object, TimeWindow> windows(Stream stream) {
        Duration size = Duration.ofMillis(stream.size()), offset = Duration.ofMillis(stream.offset());
        return switch (stream.kind()) {
            case "tumbling" -> TumblingEventTimeWindows.of(size, offset);
            case "sliding" -> SlidingEventTimeWindows.of(size, Duration.ofMillis(stream.slide()), offset);
            case "session" -> EventTimeSessionWindows.withGap(size);
            default -> throw new IllegalArgumentException(stream.kind());
        };
    }

    static DataStream<String> flow(StreamExecutionEnvironment env, Stream stream) {
        long delay = stream.delay();
        int number = stream.number();
        OutputTag<Row> late = new OutputTag<>("late", new TypeHint<Row>() {}.getTypeInfo());
        WatermarkStrategy<Row> clock = WatermarkStrategy.<Row>forGenerator(context -> new EveryRow(delay)).withTimestampAssigner((row, time) -> row.f1);
        SingleOutputStreamOperator<String> fired = env.fromData(stream.rows(), new TypeHint<Row>() {}.getTypeInfo())
            .assignTimestampsAndWatermarks(clock)
            .keyBy(row -> row.f0)
            .window(windows(stream))
            .allowedLateness(Duration.ofMillis(stream.lateness()))
            .sideOutputLateData(late)
            .aggregate(new Figures(), new Fired(number));
        return fired.union(fired.getSideOutput(late).map(row -> "L " + number + " " + row.f3).returns(Types.STRING));
    }

    static void run(List<Stream> streams, PrintStream out) throws Exception {
        StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(1);
        DataStream<String> all = null;
        for (Stream stream : streams) {
            DataStream<String> one = flow(env, stream);
            all = all == null ? one : all.union(one);
        }
        try (CloseableIterator<String> lines = all.executeAndCollect()) {
            lines.forEachRemaining(out::println);
        }
    }

    public static void main(String[] arguments) throws Exception {
        List<Stream> streams = new ArrayList<>();
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] part = line.split(" ");
            if (part[0].equals("S")) {
                long[] n = new long[part.length];
                for (int at = 3; at < part.length; at++) n[at] = Long.parseLong(part[at]);
                streams.add(new Stream(Integer.parseInt(part[1]), part[2], n[3], n[4], n[5], n[6], n[7], new ArrayList<>()));
            } else {
                List<Row> rows = streams.get(streams.size() - 1).rows();
                rows.add(new Row(part[1], Long.parseLong(part[2]), Double.parseDouble(part[3]), rows.size()));
            }
        }
        PrintStream out = new PrintStream(System.out, false);
        for (int at = 0; at < streams.size(); at += STREAMS_A_JOB) {
            run(streams.subList(at, Math.min(streams.size(), at + STREAMS_A_JOB)), out);
        }
        out.flush();
    }
}
