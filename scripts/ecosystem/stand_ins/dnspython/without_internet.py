"""A plugin of pytest that lets dnspython's tests on loopback run where there is no Internet.

They ask 8.8.8.8 first, and are skipped where it does not answer; suites.toml picks those that
need loopback only.
"""

import tests.util  # type: ignore[import-not-found]

tests.util._internet_reachable = tests.util._have_ipv4 = True
