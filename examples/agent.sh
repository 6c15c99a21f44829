#!/usr/bin/env bash
# A Homeostat agent over the door with curl and jq, as docs/protocol.md says; what acts goes into `act`.
# Samples of its node are sent by another process.
#
# usage: agent.sh http://127.0.0.1:1618 MESH NODE JOURNAL
set -u -o pipefail
door=$1 mesh=$2 node=$3 journal=$4

# Does what is ordered, reads it back; prints how it ended, and what was seen.
act() { # kind value
    echo "act $1 $2" >&2
    echo "applied printed"
}

# The log's name and its time in s, never too early; 0 where nothing is over.
log() {
    local answer name source date
    answer=$(curl -sS -f -m 30 -D - "$door/v1/log" 9>&- | tr -d '\r') || return 1
    read -r name source < <(jq -r '"\(.log_id) \(.time_source)"' <<<"${answer##*$'\n\n'}") || return 1
    date=$(sed -n 's/^[Dd]ate: //p' <<<"$answer")
    [[ $source == sample ]] && { echo "$name 0"; return; }
    date=$(date -d "${date:?}" +%s) && echo "$name $((date + 1))"
}

# A row is durable when this returns; a journal that takes nothing ends the agent.
keep() { # row
    printf '%s\n' "$1" >>"$journal" && sync "$journal" || { echo "writing $journal failed" >&2; exit 1; }
}

report() { # outcome
    local status
    until status=$(curl -sS -m 30 -o /dev/null -w '%{http_code}' -H 'content-type: application/json' \
        --data-binary "$1" "$door/v1/outcomes" 9>&-) && [[ $status =~ ^(2..|400|413|422)$ ]]; do
        sleep 2 9>&-
    done
    [[ $status == 2?? ]] || echo "not taken ($status): $1" >&2
}

# Ends a directive that was begun: with a result, or by acting.
finish() { # directive [result observed]
    local result=${2:-} observed=${3:-} outcome
    if [[ -z $result ]]; then
        read -r result observed < <(act $(jq -r '.action | "\(.kind) \(.interval_s // .level // .value)"' <<<"$1"))
    fi
    outcome=$(jq -c --arg result "${result:-unknown}" --arg observed "$observed" '{mesh_id, node_id, log_id,
        directive_id: .id, generation, kind: .action.kind, result: $result, observed: $observed}' <<<"$1")
    keep "$(jq -c --argjson outcome "$outcome" '{directive: ., outcome: $outcome}' <<<"$1")"
    report "$outcome"
}

# Of the log $name each kind's newest row that is ours, and words that both filters need.
words='
    def over: $now >= (.issued_at[:19] + "Z" | fromdateiso8601) + .ttl_s;
    def known: .kind as $k | if $k == "monitoring_interval" then .interval_s | type == "number" and . >= 1
        elif $k == "route_preference" then .value | IN("low_latency", "balanced", "high_throughput")
        elif $k == "healing" then .level | IN("preemptive", "aggressive")
        elif $k == "scaling" then .value | IN("optimize", "emergency_scale") else false end;
    def newest: map(select(.directive | .log_id == $log and .mesh_id == $mesh and .node_id == $node))
        | group_by(.directive.action.kind) | map(last);'

judge() { # filter name now, with rows on standard input
    jq -rc -s --arg log "$2" --argjson now "$3" --arg mesh "$mesh" --arg node "$node" "${@:4}" "$words $1"
}

# What was begun before a crash, and what may not have been reported.
settle() { # name now
    local todo what
    judge 'newest[] | if .outcome then "report", .outcome
        elif (.directive.action.kind | IN("monitoring_interval", "route_preference")) and (.directive | over | not)
        then "again", .directive else "unknown", .directive end' "$1" "$2" <"$journal" |
        while read -r todo && read -r what; do
            case $todo in
            report) report "$what" ;;
            again) finish "$what" ;;
            unknown) finish "$what" unknown 'begun before a restart' ;;
            esac
        done
}

obey() { # directive name now
    local verdict
    verdict=$(judge '$d | if ([.id, .issued_at | type == "string"] | all) and ([.generation, .ttl_s | type == "number"]
            | all) and (.action | known) then . else error("no directive that is known") end
        | if .mesh_id != $mesh or .node_id != $node or .log_id != $log then "ignore" else
            . as $d | ($rows | newest | map(select(.directive.action.kind == $d.action.kind)) | last) as $row
            | if $row and .generation < $row.directive.generation then "ignore"
              elif $row and ($row.outcome | not) then "ignore"
              elif $row and .generation == $row.directive.generation then $row.outcome
              elif over then "ignore" else "act" end
          end' "$2" "$3" --argjson d "$1" --slurpfile rows "$journal" <<<'') ||
        { echo "passed over: $1" >&2; return; }
    case $verdict in
    act)
        keep "$(jq -c '{directive: ., outcome: null}' <<<"$1")"
        finish "$1"
        ;;
    '{'*) report "$verdict" ;;
    esac
}

exec 9>>"$journal"
# What a killed agent began holds it for a little longer.
flock -w 60 9 || { echo "another agent holds $journal" >&2; exit 1; }
# A line that did not end was never durable.
[[ -z $(tail -c 1 "$journal") ]] || truncate -s "-$(tail -n 1 "$journal" | wc -c)" "$journal"
jq -e . "$journal" >/dev/null || [[ ! -s $journal ]] || { echo "$journal is damaged" >&2; exit 1; }

# Each connection is as a start: it needs no Last-Event-ID, for the journal knows what was done.
while :; do
    if read -r name now < <(log) && settle "$name" "$now"; then
        exec 8< <(exec curl -sS -f -N -G -H 'accept: text/event-stream' --data-urlencode "mesh=$mesh" \
            --data-urlencode "node=$node" -d since_ttl=1 "$door/v1/directives" 9>&-)
        follower=$!
        while IFS= read -r -t 30 -u 8 line; do
            [[ $line == data:* ]] || continue
            read -r of now < <(log) && [[ $of == "$name" ]] || break
            obey "${line#data:}" "$name" "$now"
        done
        kill "$follower" 2>/dev/null
        exec 8<&-
    fi
    sleep 2 9>&-
done
