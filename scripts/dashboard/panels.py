"""What the Grafana dashboard shows: a panel is a row of a table here."""

from typing import Final, NamedTuple

CHOSEN: Final = 'instance=~"$instance", local_addr=~"$local_addr"'
EACH: Final = "sum by (instance, local_addr)"
LEGEND: Final = "{{instance}} {{local_addr}}"


class Query(NamedTuple):
    """One expression of a panel, and how its series are named."""

    expr: str
    legend: str = LEGEND


class Panel(NamedTuple):
    """What one panel shows."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"


def rate(metric: str) -> str:
    """Return a counter's growth a second, of each address."""
    return f"{EACH} (rate(batching_{metric}[$__rate_interval]))".replace("[", f"{{{CHOSEN}}}[", 1)


def mean(histogram: str) -> str:
    """Return what a histogram's sizes are on average, of each address."""
    return f"{rate(histogram + '_sum')} / {rate(histogram + '_count')}"


def quantile(part: float, histogram: str) -> str:
    """Return the size that ``part`` of a histogram does not exceed, of each address."""
    buckets = rate(f"{histogram}_bucket").replace("local_addr)", "local_addr, le)", 1)
    return f"histogram_quantile({part}, {buckets})"


def buckets(histogram: str) -> str:
    """Return how many were of each size, for a heatmap."""
    return f"sum by (le) (increase(batching_{histogram}_bucket{{{CHOSEN}}}[$__rate_interval]))"


def gauge(metric: str) -> str:
    """Return a gauge, added up over the connections of each address."""
    return f"{EACH} (batching_{metric}{{{CHOSEN}}})"


def named(text: str) -> str:
    return f"{LEGEND} {text}"


def train_panels(way: str, done: str) -> tuple[Panel, Panel]:
    """Return the two panels of how long the trains of one direction are."""
    histogram = f"{way}_datagrams_per_message"
    what = f"a message {done}"
    return (
        Panel(
            f"Datagrams {what}",
            f"How many datagrams {what} carries: 1 is no train.  The mean, and the size that"
            " 95 of 100 messages do not exceed (as its bucket's share tells it).",
            "short",
            (
                Query(mean(histogram), named("mean")),
                Query(quantile(0.95, histogram), named("95 %")),
            ),
        ),
        Panel(
            f"Messages {done}, by their datagrams",
            "Up: the datagrams of a message, 1 to 128.  The brighter, the more such messages.",
            "short",
            (Query(buckets(histogram), "{{le}}"),),
            "heatmap",
        ),
    )


SECTIONS: Final = {
    "Traffic": (
        Panel(
            "Datagrams received",
            "Datagrams a second, those of trains each by itself.",
            "pps",
            (Query(rate("recv_datagrams_total")),),
        ),
        Panel(
            "Datagrams sent",
            "Datagrams a second that the kernel accepted.",
            "pps",
            (Query(rate("send_datagrams_total")),),
        ),
        Panel(
            "Bits received",
            "Payload only, without the headers of UDP and IP.",
            "bps",
            (Query(f"8 * {rate('recv_bytes_total')}"),),
        ),
        Panel(
            "Bits sent",
            "Payload only, without the headers of UDP and IP.",
            "bps",
            (Query(f"8 * {rate('send_bytes_total')}"),),
        ),
    ),
    "Batching": (
        *train_panels("recv", "received"),
        *train_panels("send", "sent"),
        Panel(
            "Messages a call",
            "How many messages a system call brings or sends, of those that bring or send any."
            "  The portable back end makes a call for each message.",
            "short",
            tuple(
                query
                for way, word in (("recv", "received"), ("send", "sent"))
                for query in (
                    Query(mean(f"{way}_messages_per_call"), named(f"{word}, mean")),
                    Query(quantile(0.95, f"{way}_messages_per_call"), named(f"{word}, 95 %")),
                )
            ),
        ),
        Panel(
            "System calls",
            "Calls a second.  In vain: nothing was there, there was no room, or it failed.",
            "ops",
            (
                Query(rate("recv_calls_total"), named("receive")),
                Query(rate("send_calls_total"), named("send")),
                Query(
                    f"{rate('recv_calls_total')} - {rate('recv_messages_per_call_count')}",
                    named("receive, in vain"),
                ),
                Query(
                    f"{rate('send_calls_total')} - {rate('send_messages_per_call_count')}",
                    named("send, in vain"),
                ),
            ),
        ),
    ),
    "Losses": (
        Panel(
            "Drop events",
            "Messages a second that found no room in the receive queue.  A merged train counts as"
            " one, however many datagrams it had.",
            "eps",
            (Query(rate("recv_queue_drops_total")),),
        ),
        Panel(
            "Send errors",
            "Datagrams a second that were given up with an error.",
            "eps",
            (Query(rate("send_errors_total")),),
        ),
        Panel(
            "GSO fallbacks",
            "How many times, in the last five minutes, a destination was found not to take trains,"
            " or none of that size, by the errno that said so.",
            "short",
            (
                Query(
                    "sum by (instance, local_addr, reason)"
                    f" (increase(batching_gso_fallbacks_total{{{CHOSEN}}}[5m]))",
                    named("{{reason}}"),
                ),
            ),
        ),
        Panel(
            "Truncated messages",
            "Messages a second that did not fit: their payload (MSG_TRUNC), or what came beside"
            " it (MSG_CTRUNC).",
            "eps",
            (
                Query(rate("recv_truncated_total"), named("payload")),
                Query(rate("recv_control_truncated_total"), named("control")),
            ),
        ),
        Panel(
            "Errors of the network lost",
            "Errors of the network a second (transport_errors=True) that made room for newer ones,"
            " as nobody asked for them in time.",
            "eps",
            (Query(rate("transport_errors_lost_total")),),
        ),
        Panel(
            "Drop events by name",
            "The same as the kernel tells it beside received datagrams (SO_RXQ_OVFL), of"
            " connections that were given a rxq_overflows_metric_name.",
            "eps",
            (
                Query(
                    "sum by (instance, name) (rate(batching_rxq_overflows_total"
                    '{instance=~"$instance"}[$__rate_interval]))',
                    "{{instance}} {{name}}",
                ),
            ),
        ),
    ),
    "State": (
        Panel(
            "Datagrams pending",
            "Received, and waiting in user space for the program to take them.",
            "short",
            (Query(gauge("pending_datagrams")),),
        ),
        Panel(
            "Queues",
            "How full the socket's queues are: memory taken of memory granted.  A receive queue"
            " near 100 % is about to drop.",
            "percentunit",
            tuple(
                Query(
                    f"max by (instance, local_addr) (batching_{way}_queue_bytes{{{CHOSEN}}}"
                    f" / batching_{way}_buffer_bytes{{{CHOSEN}}})",
                    named(word),
                )
                for way, word in (("recv", "receive"), ("send", "send"))
            ),
        ),
        Panel(
            "Connections",
            "Open connections, by what the kernel does for them and by back end.",
            "short",
            (
                Query(
                    f"count by (instance, backend, gso, gro) (batching_offload_info{{{CHOSEN}}})",
                    "{{instance}} {{backend}}, GSO {{gso}}, GRO {{gro}}",
                ),
            ),
        ),
        Panel(
            "Datagrams that a train may have",
            "On its way out; 1 without GSO.  Destinations may be spared trains all the same: see"
            " GSO fallbacks.",
            "short",
            (Query(f"min by (instance, local_addr) (batching_max_segments{{{CHOSEN}}})"),),
        ),
    ),
}
