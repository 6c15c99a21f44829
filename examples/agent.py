#!/usr/bin/env python3
"""A Homeostat agent over the door, as docs/protocol.md says; what acts goes into `act`. Samples of
its node are sent by another process (producer.py).

usage: agent.py http://127.0.0.1:1618 MESH NODE JOURNAL
"""
import email.utils, fcntl, http.client, json, os, sys, time, urllib.error, urllib.parse, urllib.request
from datetime import datetime

DOOR, MESH, NODE, JOURNAL = sys.argv[1:5]
ORDERS = {  # kind: the key of its value, the values, whether twice is the same as once
    "monitoring_interval": ("interval_s", range(1, 2**32), True),
    "route_preference": ("value", ("low_latency", "balanced", "high_throughput"), True),
    "healing": ("level", ("preemptive", "aggressive"), False),
    "scaling": ("value", ("optimize", "emergency_scale"), False),
}
newest = {}  # (log, kind): the directive that was begun last, and its outcome or None


def act(action, value):
    """Does it, reads it back, and says how it ended and what was seen."""
    print("act", action["kind"], value, flush=True)
    return "applied", "printed"


def ask(path, body=None, **headers):
    headers["Content-Type"] = "application/json"
    data = None if body is None else json.dumps(body).encode()
    return urllib.request.urlopen(urllib.request.Request(DOOR + path, data, headers), timeout=30)


def log():
    """The log's name and time; where its time is the samples' own nothing is over."""
    with ask("/v1/log") as answer:
        said, date = json.load(answer), email.utils.parsedate_to_datetime(answer.headers["Date"])
    return said["log_id"], 0 if said["time_source"] == "sample" else date.timestamp() + 0.999


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
    """Durable when it returns. A journal that takes nothing ends the agent."""
    try:
        journal.write(json.dumps({"directive": d, "outcome": outcome}).encode() + b"\n")
        os.fsync(journal.fileno())
    except OSError as error:
        sys.exit(f"writing {JOURNAL}: {error}")
    newest[d["log_id"], d["action"]["kind"]] = d, outcome


def finish(d, result=None, observed="begun before a restart"):
    outcome, value, _ = read(d)
    if not result:
        result, observed = act(d["action"], value)
    keep(d, outcome | {"result": result, "observed": observed})
    report(outcome | {"result": result, "observed": observed})


def report(outcome):
    while True:
        try:
            return ask("/v1/outcomes", outcome).close()
        except urllib.error.HTTPError as error:
            if error.code in (400, 413, 422):
                return print("not taken:", error.read(), file=sys.stderr)
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(2)


def obey(d, name, now):
    outcome, _, ends = read(d)
    if (d["mesh_id"], d["node_id"], d["log_id"]) != (MESH, NODE, name):
        return
    last, done = newest.get((name, outcome["kind"]), ({"generation": -1}, None))
    if d["generation"] == last["generation"] and done:
        report(done)
    elif d["generation"] > last["generation"] and now < ends:
        keep(d, None)
        finish(d)


def settle(name, now):
    """What was begun before a crash, and what may not have been reported."""
    for d, done in [row for (of, _), row in newest.items() if of == name]:
        if done:
            report(done)
        elif ORDERS[d["action"]["kind"]][2] and now < read(d)[2]:
            finish(d)
        else:
            finish(d, "unknown")


def follow(name, seen):
    """Obeys what comes. Yields the id of each event that was dealt with, None for another log."""
    query = {"mesh": MESH, "node": NODE} | ({} if seen else {"since_ttl": 1})
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": seen} if seen else {})
    data = ""
    with ask("/v1/directives?" + urllib.parse.urlencode(query), **headers) as events:
        for line in events:
            field, colon, value = line.decode().strip("\r\n").partition(":")
            data = value if field == "data" else data
            seen = value.strip() if field == "id" else seen
            if field or colon:
                continue
            if data:
                of, now = log()
                if of != name:
                    return (yield None)
                try:
                    obey(json.loads(data), name, now)
                except (KeyError, TypeError, ValueError) as error:
                    print("passed over:", repr(error), data, file=sys.stderr)
            data = ""
            yield seen


journal = open(JOURNAL, "a+b", buffering=0)
fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)  # one agent holds it
journal.seek(0)
whole = journal.read().rpartition(b"\n")
journal.truncate(len(whole[0] + whole[1]))  # a line that did not end was never durable
for row in map(json.loads, whole[0].splitlines()):
    if (row["directive"]["mesh_id"], row["directive"]["node_id"]) == (MESH, NODE):
        newest[row["directive"]["log_id"], row["directive"]["action"]["kind"]] = tuple(row.values())

settled = seen = None
while True:
    try:
        name, now = log()
        if name != settled:
            settle(name, now)
            settled, seen = name, None
        for seen in follow(name, seen):
            pass
    except urllib.error.HTTPError as error:
        seen = None if error.code in (400, 409) else seen
    except (OSError, http.client.HTTPException, LookupError, TypeError, ValueError) as error:
        print("lost:", repr(error), file=sys.stderr)
    time.sleep(2)
