#!/usr/bin/env python3
"""Sends a Linux host's memory and CPU use to the door, a sample each interval; what the door does
not take now is kept and sent again, oldest first, with the same numbers.

usage: producer.py http://127.0.0.1:1618 MESH NODE INTERVAL_S
"""
import collections, http.client, json, sys, time, urllib.error, urllib.request

DOOR, MESH, NODE, INTERVAL_S = *sys.argv[1:4], float(sys.argv[4])
BOOT = time.time_ns() // 1_000_000  # a newer one begins seq anew
waiting = collections.deque(maxlen=10_000)  # the oldest goes when it is full


def memory_percent():
    with open("/proc/meminfo") as file:
        of = dict(line.split(":") for line in file)
    total, free = (int(of[key].split()[0]) for key in ("MemTotal", "MemAvailable"))
    return 100 * (total - free) / total


def cpu_times():
    with open("/proc/stat") as file:
        times = [int(word) for word in file.readline().split()[1:9]]
    return sum(times), times[3] + times[4]


def send():
    """Sends all that waits; answers after how many seconds to try again, if not all was taken."""
    body = "\n".join(map(json.dumps, list(waiting)[:1000])).encode()
    request = urllib.request.Request(DOOR + "/v1/metrics", body, {"Content-Type": "application/x-ndjson"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            for fault in json.load(answer)["rejected"]:
                print("rejected:", fault, file=sys.stderr)
    except urllib.error.HTTPError as error:
        if error.code not in (400, 422):
            return int(error.headers.get("Retry-After") or 1)
        print("dropped:", error.read(), file=sys.stderr)
    except (OSError, ValueError, http.client.HTTPException) as error:
        print("trying again:", error, file=sys.stderr)
        return 2
    for _ in body.split(b"\n"):
        waiting.popleft()
    return 0


seq, before, next_at, free_at = 0, cpu_times(), time.monotonic() + INTERVAL_S, 0.0
while True:
    time.sleep(max(0, next_at - time.monotonic()))
    next_at += INTERVAL_S
    seq, now = seq + 1, cpu_times()
    sample = {"mesh_id": MESH, "node_id": NODE, "boot": BOOT, "seq": seq, "time": time.time_ns() // 1_000_000}
    sample |= {"interval_s": INTERVAL_S, "memory_percent": memory_percent()}
    if now[0] > before[0]:  # else it was not measured, and is left out
        sample["cpu_percent"] = min(100, max(0, 100 * (1 - (now[1] - before[1]) / (now[0] - before[0]))))
    before = now
    waiting.append(sample)
    while waiting and time.monotonic() >= free_at:
        free_at = time.monotonic() + send()
