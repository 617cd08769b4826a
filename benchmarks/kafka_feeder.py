"""Sends a market's messages at a steady rate, each with the time at which it is sent.

``python -m benchmarks.kafka_feeder JSON`` prints what it sent: how many bars and news, and the
greatest lag behind its own pace.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from typing import Any

from confluent_kafka import Producer

from benchmarks.kafka_broker import ANSWER_S
from benchmarks.kafka_messages import Market

SLOT_S = 0.002


def feed(bootstrap: str, names: list[str], rate: int, seconds: float) -> dict[str, Any]:
    """Sends.

    Args:
        bootstrap: address of the broker.
        names: the topics of bars and of news.
        rate: messages a second.
        seconds: for how long.
    """
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "linger.ms": 5,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    for name in names:
        producer.list_topics(name, timeout=ANSWER_S)
    market = Market()
    message, produce, now_ns = market.message, producer.produce, time.time_ns
    count, total = 0, int(rate * seconds)
    sent = [0, 0]
    last_ns, behind_s = 0, 0.0
    gc.disable()  # nothing here makes a circle, and a pause would count as latency of the flow
    start_s = time.perf_counter()
    while count < total:
        due = min(total, int((time.perf_counter() - start_s) * rate) + 1)
        behind_s = max(behind_s, (due - count) / rate)
        for number in range(count, due):
            last_ns = max(last_ns + 1, now_ns())
            topic, key, value = message(number, last_ns)
            produce(names[topic], value, key)
            sent[topic] += 1
        count = due
        producer.poll(0)
        time.sleep(SLOT_S)
    took_s = time.perf_counter() - start_s
    left = producer.flush(ANSWER_S)
    return {
        "bars": sent[0], "news": sent[1], "left": left, "behind_ms": behind_s * 1e3,
        "rate": total / took_s, "cpu": time.process_time() / took_s,
    }  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(json.dumps(feed(**json.loads(sys.argv[1]))) + "\n")
