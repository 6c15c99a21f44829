#!/usr/bin/env python3
"""A Homeostat agent over Kafka, as docs/protocol.md says; what acts goes into `act`. Samples of its
node come as JSON lines on standard input, from whatever measures, and are sent on. Needs confluent-kafka
(Debian: python3-confluent-kafka), since kafka-python before 2.1 reads what was never committed.

usage: measure | agent_kafka.py HOST:9092 PREFIX MESH NODE JOURNAL
"""
import fcntl, json, os, queue, sys, threading, time
from datetime import datetime
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, Producer, TopicPartition

BROKERS, PREFIX, MESH, NODE, JOURNAL = sys.argv[1:6]
TTL_MAX_S = 3 * 3600
ORDERS = {  # kind: the key of its value, the values, whether twice is the same as once
    "monitoring_interval": ("interval_s", range(1, 2**32), True),
    "route_preference": ("value", ("low_latency", "balanced", "high_throughput"), True),
    "healing": ("level", ("preemptive", "aggressive"), False),
    "scaling": ("value", ("optimize", "emergency_scale"), False),
}
newest = {}  # (log, kind): the directive that was begun last, and its outcome or None
clock = []  # the log's time when a record was taken last, and this host's monotonic clock then


def act(action, value):
    """Does it, reads it back, and says how it ended and what was seen."""
    print("act", action["kind"], value, flush=True)
    return "applied", "printed"


def now():
    return clock[0] + time.monotonic() - clock[1]


def taken(error, record):
    """What the brokers say of a record of ours; it tells the log's time."""
    kind, ms = (None, 0) if error else record.timestamp()
    if error:
        sys.exit(f"sending: {error}")  # librdkafka tried for as long as it makes sense; start again
    if kind == TIMESTAMP_LOG_APPEND_TIME:
        clock[:] = max(ms / 1000, now() if clock else 0), time.monotonic()


def send(line):
    producer.produce(PREFIX + "metrics", line, NODE, callback=taken, headers={"content-type": "application/json"})


def read(d):
    """Its outcome without a result, what is ordered, and when it is over; fails on what is none."""
    kind = d["action"]["kind"]
    value = d["action"][ORDERS[kind][0]]
    if type(value) not in (int, str) or value not in ORDERS[kind][1]:
        raise ValueError("a value that is not known")
    ends = datetime.fromisoformat(d["issued_at"].replace("Z", "+00:00")).timestamp() + d["ttl_s"]
    names = {key: d[key] for key in ("mesh_id", "node_id", "log_id", "generation")}
    return names | {"directive_id": d["id"], "kind": kind}, value, ends


def keep(d, outcome):
    """Durable when it returns; a journal that takes nothing ends the agent."""
    journal.write(json.dumps({"directive": d, "outcome": outcome}).encode() + b"\n")
    os.fsync(journal.fileno())
    newest[d["log_id"], d["action"]["kind"]] = d, outcome


def finish(d, result=None, observed="begun before a restart"):
    outcome, value, _ = read(d)
    if not result:
        result, observed = act(d["action"], value)
    keep(d, outcome | {"result": result, "observed": observed})
    send(json.dumps(outcome | {"result": result, "observed": observed}))


def settle(log_id):
    """What was begun before a crash, and what may not have been reported."""
    for d, done in [row for (of, _), row in newest.items() if of == log_id]:
        if done:
            send(json.dumps(done))
        elif ORDERS[d["action"]["kind"]][2] and now() < read(d)[2]:
            finish(d)
        else:
            finish(d, "unknown")


def obey(d, appended):
    outcome, _, ends = read(d)
    if (d["mesh_id"], d["node_id"]) != (MESH, NODE):
        return
    if d["log_id"] not in settled:
        settle(d["log_id"])
        settled.add(d["log_id"])
    last, done = newest.get((d["log_id"], outcome["kind"]), ({"generation": -1}, None))
    if d["generation"] == last["generation"] and done:
        send(json.dumps(done))
    elif d["generation"] > last["generation"] and max(now(), appended) < ends:
        keep(d, None)
        finish(d)


journal = open(JOURNAL, "a+b", buffering=0)
fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)  # one agent holds it
journal.seek(0)
whole = journal.read().rpartition(b"\n")
journal.truncate(len(whole[0] + whole[1]))  # a line that did not end was never durable
for row in map(json.loads, whole[0].splitlines()):
    if (row["directive"]["mesh_id"], row["directive"]["node_id"]) == (MESH, NODE):
        newest[row["directive"]["log_id"], row["directive"]["action"]["kind"]] = tuple(row.values())

samples = queue.Queue(10_000)
threading.Thread(target=lambda: [samples.put(line.strip()) for line in sys.stdin.buffer], daemon=True).start()
producer = Producer({"bootstrap.servers": BROKERS, "enable.idempotence": True, "partitioner": "murmur2_random"})
consumer = Consumer({"bootstrap.servers": BROKERS, "isolation.level": "read_committed", "group.id": "agent",
                     "enable.auto.commit": False, "auto.offset.reset": "earliest"})


def forward(wait):
    """Sends the samples that came, and hears what the brokers say."""
    while not samples.empty():
        send(samples.get())
    producer.poll(wait)


# Nothing is read before a record of ours was taken: what lay there for too long is then known to be over.
while not clock:
    forward(0.2)
settled = {log_id for log_id, _ in newest}
for log_id in settled:
    settle(log_id)
partitions = consumer.list_topics(PREFIX + "directives", 30).topics[PREFIX + "directives"].partitions
since = int((now() - TTL_MAX_S) * 1000)
places = [TopicPartition(PREFIX + "directives", number, since) for number in partitions]
ends = [consumer.get_watermark_offsets(place, 30)[1] for place in places]  # asked first, or one would be missed
places = consumer.offsets_for_times(places, 30)
for place, end in zip(places, ends):
    place.offset = place.offset if place.offset >= 0 else end
consumer.assign(places)
while True:
    forward(0)
    record = consumer.poll(0.2)
    if record is None:
        continue
    if record.error():
        print("reading:", record.error(), file=sys.stderr)
        continue
    kind, ms = record.timestamp()
    try:
        obey(json.loads(record.value()), ms / 1000 if kind == TIMESTAMP_LOG_APPEND_TIME else 0)
    except (KeyError, TypeError, ValueError) as error:
        print("passed over:", repr(error), record.value(), file=sys.stderr)
