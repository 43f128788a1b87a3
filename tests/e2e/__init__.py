"""The gateway as it is run, over real sockets, with the simulator behind it."""

import pytest

pytest.register_assert_rewrite("tests.e2e.rows", "tests.e2e.table", "tests.e2e.watching", "tests.e2e.wire")
