"""The folders and slots that workers count in, where several gateways and workers begin and end at once."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from prometheus_client.mmap_dict import MmapedDict

from gateway.slots import clear_abandoned, counted, hold, tell_config, told_configs


@contextlib.contextmanager
def between_calls(act: Callable[[], object]) -> Iterator[None]:
    """Do this before and after each call within the block, as another process might."""

    def moment(frame: FrameType, event: str, arg: Any) -> None:
        del frame, event, arg
        sys.setprofile(None)
        act()
        sys.setprofile(moment)

    sys.setprofile(moment)
    try:
        yield
    finally:
        sys.setprofile(None)


def test_a_folder_is_safe_while_it_is_being_taken(tmp_path: Path) -> None:
    """Another gateway that starts at any moment of the taking leaves the folder where it is."""
    folder = tmp_path / "metrics-new"
    folder.mkdir()
    with between_calls(lambda: clear_abandoned(tmp_path, "metrics-")):
        descriptor = hold(folder)
    assert folder.is_dir()
    os.close(descriptor)


def test_a_folder_whose_gateway_was_killed_is_taken_away(tmp_path: Path) -> None:
    """A folder that nobody holds any more is gone after the next start; one that is held, or another's, stays."""
    dead, living, other = (tmp_path / name for name in ("metrics-dead", "metrics-living", "other"))
    for folder in (dead, living, other):
        folder.mkdir()
    os.close(hold(dead))
    os.close(hold(other))
    descriptor = hold(living)
    clear_abandoned(tmp_path, "metrics-")
    os.close(descriptor)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["metrics-living", "other"]


def test_a_worker_is_on_one_config_or_the_other(tmp_path: Path) -> None:
    """Whoever looks while a worker changes over finds it on the old config or on the new one."""
    seen: set[str] = set()
    tell_config(tmp_path, 0, "old")
    with between_calls(lambda: seen.update(told_configs(tmp_path))):
        tell_config(tmp_path, 0, "new")
    assert seen == {"old", "new"}


def test_a_worker_may_be_found_dead_within_a_look(tmp_path: Path) -> None:
    """A file that is listed and then gone, here by a link to nothing, is no worker, and the others are told."""
    tell_config(tmp_path, 0, "same")
    (tmp_path / "config-1").symlink_to(tmp_path / "gone")
    assert told_configs(tmp_path) == {"same": 1}


def test_what_is_counted_is_found_by_name(tmp_path: Path) -> None:
    """Each worker's samples of the asked-for names come with their labels, odd ones too; what is at 0 and the rest do
    not; a bucket stands by itself.
    """
    program = (
        "import sys; from pathlib import Path; from gateway.slots import take_slot\n"
        "folder = Path(sys.argv[1]); take_slot(folder)\n"
        "from prometheus_client import CollectorRegistry, Counter, Histogram\n"
        "registry = CollectorRegistry()\n"
        "asked = Counter('asked_total', 'help', ['who'], registry=registry)\n"
        "asked.labels('a \"b\" c').inc(3); asked.labels('nobody').inc(0)\n"
        "Counter('other_total', 'asked_total', registry=registry).inc()\n"
        "times = Histogram('times', 'help', registry=registry, buckets=(1, 2))\n"
        "[times.observe(value) for value in (0.5, 1.5, 1.5)]\n"
    )
    held = (
        "from gateway.slots import take_slot; from pathlib import Path; import subprocess, sys\n"
        "take_slot(Path(sys.argv[2])); sys.exit(subprocess.call([sys.executable, '-c', sys.argv[1], sys.argv[2]]))"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)  # slot 0, by a worker that then dies
    subprocess.run([sys.executable, "-c", held, program, str(tmp_path)], check=True)  # slot 1, beside a living one
    found = [(name, dict(labels), value) for name, labels, value in counted(tmp_path, {"asked_total", "times_bucket"})]
    assert sorted(found, key=str) == sorted(
        2
        * [
            ("asked_total", {"who": 'a "b" c'}, 3.0),
            ("times_bucket", {"le": "1.0"}, 1.0),
            ("times_bucket", {"le": "2.0"}, 2.0),
        ],
        key=str,
    )


COUNTING = """
import resource, signal, sys
from pathlib import Path
from gateway.slots import count
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    for _ in range(2):
        count(Path(sys.argv[1]), "gateway_things", {"kind": "odd"}, "Things.")
except OSError as error:
    sys.exit(f"refused: {error.strerror}")
"""


def test_what_the_master_counts_adds_up_and_a_full_disk_does_not_end_it(tmp_path: Path) -> None:
    """Two are two for whoever reads all files; without room for the file it is told, and nothing is counted."""
    ends = []
    for most in (1024, 1024 * 1024):
        command = [sys.executable, "-c", COUNTING, str(tmp_path), str(most)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        ends.append((ended.returncode, ended.stderr.strip()))
    assert ends == [(1, "refused: File too large"), (0, "")]
    assert list(counted(tmp_path, {"gateway_things_total"})) == [("gateway_things_total", {"kind": "odd"}, 2.0)]


FULL = """
import resource, signal, sys
from pathlib import Path
from gateway.slots import take_slot
take_slot(Path(sys.argv[1]))
from prometheus_client import CollectorRegistry, Counter, Gauge
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
registry = CollectorRegistry()
early = Counter("early", "help", ["number"], registry=registry)
early.labels("0").inc()
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
for number in range(2000):
    early.labels(str(number)).inc()
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
late = Gauge("late", "help", registry=registry, multiprocess_mode="livesum")
late.set(7)
early.labels("0").inc()
"""


def test_a_full_disk_costs_what_it_has_no_room_for_and_no_worker(tmp_path: Path) -> None:
    """Values that had room go on, and the others are seen by nobody; none of them ends the process."""
    subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], check=True, timeout=30)
    found = {dict(labels)["number"]: value for _, labels, value in counted(tmp_path, {"early_total"})}
    assert found.pop("0") == 3.0
    assert 100 < len(found) < 1999
    assert set(found.values()) == {1.0}
    assert list(counted(tmp_path, {"late"})) == []


def test_no_scrape_finds_a_value_half_written(tmp_path: Path) -> None:
    """A counter that is read while it grows only ever grows: one that fell would be a restart to Prometheus."""
    program = (
        "import sys; from pathlib import Path; from gateway.slots import take_slot\n"
        "take_slot(Path(sys.argv[1]))\n"
        "from prometheus_client import CollectorRegistry, Counter\n"
        "counter = Counter('grown', 'help', registry=CollectorRegistry())\n"
        "print(flush=True)\n"
        "while True: counter.inc()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as growing:
        try:
            assert growing.stdout is not None
            growing.stdout.readline()
            seen: list[float] = []
            while len(set(seen)) < 2000:
                found = MmapedDict.read_all_values_from_file(str(tmp_path / "counter_0.db"))  # type: ignore[no-untyped-call]
                seen += [value for _, value, *_ in found]
        finally:
            growing.kill()
    assert seen == sorted(seen)


MONEY = """
import sys
from pathlib import Path
from gateway.slots import take_slot
take_slot(Path(sys.argv[1]))
from gateway.core.settlement import End, Settlement
from gateway.metrics import Metrics, Readings, exposition
from gateway.pipeline.meter import Tally
tally = Tally(Metrics())
charge = ("design", "key|account|dall-e-3|1024x1024|hd|generations", 1, 70_001)
for _ in range(1000):
    tally.presumed([charge])
text, _ = exposition(Path(sys.argv[1]), Readings([]), "")
sys.stdout.buffer.write(text)
"""


def test_dollars_are_summed_up_exactly(tmp_path: Path) -> None:
    """A thousand charges of 7.0001 cents are 70 dollars and a tenth of a cent, and not some 1e-12 beside it."""
    ended = subprocess.run([sys.executable, "-c", MONEY, str(tmp_path)], check=True, capture_output=True, text=True)
    labels = '{endpoint="generations",model="dall-e-3",quality="hd",size="1024x1024",team="design"}'
    for name in ("gateway_image_cost_usd_total", "gateway_image_cost_unknown_usd_total"):
        assert f"{name}{labels} 70.001\n" in ended.stdout
    assert f"gateway_images_total{labels} 1000.0\n" in ended.stdout
