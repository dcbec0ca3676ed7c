"""Keys: one node of kademlia on our loop stores them in another, and gets them back."""

from __future__ import annotations

from programs import line_of, programs


def run(n_keys: int) -> str:
    """Set and get so many keys; return what was done."""
    with programs("keys") as them:
        node = them.start("kademlia_node")
        n_client = int(them.run("kademlia_client", line_of(node.stdout), n_keys))
        n_node = int(them.end(node, "the node"))
    assert n_client, "the client had no endpoint of ours"
    assert n_node, "the node had no endpoint of ours"
    return f"{n_keys} keys set and got rightly"
