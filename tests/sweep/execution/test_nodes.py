"""What a node is asked before the first trial."""

import os
import re
from pathlib import Path

import pytest

from medcap_core.config import TrialConfig
from medcap_core.errors import RunFault
from medcap_core.runtime.progress import ignore_progress
from medcap_core.runtime.storage import Storage
from sweep.execution.nodes import describe_differences, find_unfit, keep_off, list_nodes, look
from tests.support.real_runs import Materials


def test_a_node_without_data_model_or_run_directory_says_so(materials: Materials, tmp_path: Path) -> None:
    config = TrialConfig(data=str(materials.images), model=str(materials.model))
    place = Storage(f"file://{tmp_path}")
    place.write(".shared-1", b".shared-1")
    own, faults = look([config], place, ".shared-1")
    assert faults == describe_differences(own, (own, faults)) == []
    assert {"ray", "torch", "transformers", f"data {config.data}", f"model {config.model}"} < set(own)

    elsewhere = config.model_copy(update={"data": str(tmp_path / "no data"), "model": str(tmp_path / "no model")})
    place.remove(".shared-1")
    faults = describe_differences(own, look([elsewhere], place, ".shared-1"))
    assert [fault.split(":")[0] for fault in faults] == [
        "run directory", f"data {elsewhere.data}", f"model {elsewhere.model}"
    ]  # fmt: skip


def test_differences_are_told_with_both_values() -> None:
    own = {"torch": "2.13.0", "data x": "aaaa", "model y": "bbbb"}
    found = {"torch": "2.12.1", "data x": "cccc", "model y": ""}  # not in the cache there
    assert describe_differences(own, (found, [])) == [
        "its torch is 2.12.1, but 2.13.0 here",
        "its data x is cccc, but aaaa here",
    ]


def test_nothing_is_kept_off_no_node() -> None:
    assert keep_off(()) == {}
    assert keep_off(["b", "a"]) == {"ray.io/node-id": "!in(a,b)"}


@pytest.mark.usefixtures("local_ray")
class TestRunDirectory:
    def test_that_all_see_is_fine_and_left_clean(self, tmp_path: Path) -> None:
        assert find_unfit(list_nodes(), [], tmp_path, None, ignore_progress) == {}
        assert not list(tmp_path.iterdir())

    @pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs a path that means another place elsewhere")
    def test_that_another_process_does_not_see_is_a_fault(self, tmp_path: Path) -> None:
        descriptor = os.dup2(os.open(tmp_path, os.O_RDONLY), 200, inheritable=False)
        directory = Path("/proc/self/fd") / str(descriptor)  # a folder for this process alone
        with pytest.raises(
            RunFault, match=rf"^node .+ cannot run trials: run directory: .+{re.escape(directory.name)}"
        ):
            find_unfit(list_nodes(), [], directory, None, ignore_progress)
        os.close(descriptor)
        assert not list(tmp_path.iterdir())
