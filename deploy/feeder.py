"""Feeds a flow with a market that is made up: a bar a second of each instrument, and some news.

It is there to see a flow at work; it needs nothing of Riffle's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator

from confluent_kafka import Producer

Message = tuple[str, str, dict[str, object]]
"""Topic, key and value."""
NEWS_SHARE = 0.01
"""How often an instrument is in the news, in a second."""


def market(instruments: int, seed: int) -> Iterator[list[Message]]:
    """What happens in each second, without its time."""
    chance = random.Random(seed)
    names = [f"DEMO{number:04d}" for number in range(instruments)]
    prices = {name: chance.uniform(10, 500) for name in names}
    while True:
        happened: list[Message] = []
        for name in names:
            opened = prices[name]
            walk = [opened]
            walk += [walk[-1] * (1 + chance.gauss(0, 0.0005)) for _ in range(4)]
            walk = [round(price, 4) for price in walk]
            prices[name] = walk[-1]
            bar = {
                "instrument_id": name, "timeframe": "1s", "open": walk[0], "high": max(walk),
                "low": min(walk), "close": walk[-1], "volume": chance.randint(1, 5000),
            }  # fmt: skip
            happened.append(("bars", name, bar))
            if chance.random() < NEWS_SHARE:
                item = {
                    "instrument_id": name, "event_id": f"{chance.getrandbits(64):016x}",
                    "sentiment": round(chance.uniform(-1, 1), 3),
                    "confidence": round(chance.uniform(0, 1), 3),
                }  # fmt: skip
                happened.append(("news", name, item))
        yield happened


def main() -> None:
    """Feeds until SIGTERM."""
    parser = argparse.ArgumentParser(description="Feeds a flow with a market that is made up.")
    parser.add_argument("--instruments", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    producer = Producer(
        {
            "bootstrap.servers": os.environ["RIFFLE_KAFKA__BOOTSTRAP"],
            "enable.idempotence": True,
            # As Java does it: an instrument is in one partition, of bars and of news alike.
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "linger.ms": 20,
        }
    )
    for happened in market(told.instruments, told.seed):
        second = int(time.time()) + 1
        if stopped.wait(second - time.time()):
            break
        for topic, key, value in happened:
            # A bar is of the second that has ended.
            value["ts"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))
            producer.produce(topic, json.dumps(value), key)
        producer.poll(0)
    producer.flush(10)


if __name__ == "__main__":
    main()
