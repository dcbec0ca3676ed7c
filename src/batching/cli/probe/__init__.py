"""``batching probe``: what this machine and a path can do, what limits it, what to change.

``command`` has its arguments.  Of this machine: ``system``, ``loopback``, ``buffers``,
``devices`` (with ``ethtool`` and ``route``) and ``drops`` make findings.  Of a path:
``client`` and ``server`` send each other bursts of ``shapes``, count them (``tally``), and
``verdict`` makes findings of the counts.
"""
