"""The rows of `benches/dataflow.rs` through bytewax: mean by part and window, one worker. See `run` beside this file."""

import sys
import time
from datetime import datetime, timedelta, timezone

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import EventClock, SlidingWindower, TumblingWindower
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import TestingSource, run_main

START = datetime.fromtimestamp(1_700_000_000, timezone.utc)


class Count(DynamicSink, StatelessSinkPartition):
    """Counts what comes and throws it away."""

    rows = 0

    def build(self, step_id, worker_index, worker_count):
        return self

    def write_batch(self, items):
        self.rows += len(items)


def row(n):
    time_ms = n // 100 - n * 7919 % 5
    return (f"part-{(n * 2_654_435_761 % (1 << 32) >> 12) % 1000:03}", (START + timedelta(milliseconds=time_ms), 74 + n % 17 * 0.01))


def run(name, rows, windower):
    out = Count()
    flow = Dataflow("means")
    keyed = op.input("rows", flow, TestingSource(rows, batch_size=10_000))
    clock = EventClock(ts_getter=lambda value: value[0], wait_for_system_duration=timedelta(milliseconds=5))
    windowed = win.fold_window(
        "mean", keyed, clock, windower, lambda: (0, 0.0), lambda sums, value: (sums[0] + 1, sums[1] + value[1]),
        lambda a, b: (a[0] + b[0], a[1] + b[1]),
    )
    means = op.map("divide", windowed.down, lambda item: (item[0], item[1][0], item[1][1][1] / item[1][1][0]))
    op.output("out", means, out)
    began = time.perf_counter()
    run_main(flow)
    print(f"bytewax {name}: {len(rows) / (time.perf_counter() - began):.0f} rows/s, {out.rows} results")


rows = [row(n) for n in range(int(sys.argv[1]))]
second = timedelta(seconds=1)
run("tumbling", rows, TumblingWindower(length=second, align_to=START))
run("sliding, 10 windows a row", rows[: len(rows) // 10], SlidingWindower(length=second, offset=second / 10, align_to=START))
