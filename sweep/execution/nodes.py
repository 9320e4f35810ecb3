"""Ask each node of a cluster, before the first trial, whether it sees and has what trials need."""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import placement_group_table
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from medcap_core.config import TrialConfig
from medcap_core.errors import MedcapError, RunFault, first_line
from medcap_core.runtime.progress import Progress
from medcap_core.runtime.storage import Storage
from sweep.study.provenance import COMPARED_PACKAGES

SECONDS_TO_ANSWER = 900.0
"""How long a node may take to read data and model."""
_IMAGES_OPENED = 3
_SHOWN_DIGITS = 16
NODE_LABEL = "ray.io/node-id"
"""The label with its id that Ray gives to each node."""


@dataclass(frozen=True)
class NodeSize:
    """CPUs and GPUs of one node, and which it is."""

    cpus: float
    gpus: float = 0.0
    id: str = ""
    name: str = ""
    is_alive: bool = True


Answer = tuple[dict[str, str], list[str]]
"""What a node found: values that are the same on all nodes by subject, empty where unknown; and faults."""


def list_nodes() -> list[NodeSize]:
    """List the nodes, those that died too; two on one host bear part of their ids in their names."""
    known: list[dict[str, Any]] = ray.nodes()
    hosts = Counter(node["NodeManagerHostname"] for node in known)
    nodes = []
    for node in known:
        host, key, has = node["NodeManagerHostname"], node["NodeID"], node["Resources"]
        name = f"{host} ({key[:8]})" if hosts[host] > 1 else host
        cpus, gpus = has.get("CPU", 0.0), has.get("GPU", 0.0)
        nodes.append(NodeSize(cpus=cpus, gpus=gpus, id=key, name=name, is_alive=node["Alive"]))
    return nodes


def is_one_machine() -> bool:
    """Return whether a single node is alive."""
    return [node["Alive"] for node in ray.nodes()].count(True) == 1


def keep_off(node_ids: Sequence[str]) -> dict[str, str]:
    """Return the label selector that keeps work off nodes; empty where there are none to keep off."""
    return {NODE_LABEL: f"!in({','.join(sorted(node_ids))})"} if node_ids else {}


def describe_shortage(cpus: float, gpus: float) -> str | None:
    """Describe that the cluster has no room now for one worker of that size, if so."""
    free, total = ray.available_resources(), ray.cluster_resources()
    wanted = {"CPU": cpus, "GPU": gpus}
    if all(free.get(kind, 0.0) >= amount for kind, amount in wanted.items()):
        return None
    of_all = [f"{free.get(kind, 0.0):g} of {total.get(kind, 0.0):g} {kind}s" for kind in wanted if wanted[kind]]
    needs = [f"{amount:g} {kind}{'' if amount == 1 else 's'}" for kind, amount in wanted.items() if amount]
    return (
        f"Waiting        a worker needs {' and '.join(needs)}, but {' and '.join(of_all)} of the cluster are free; the "
        "run goes on when there are more"
    )


def list_waiting() -> dict[str, dict[str, float]]:
    """List the resources of the first bundle of each placement group that Ray could not grant yet, by its id."""
    waiting = {key: group for key, group in placement_group_table().items() if group["state"] == "PENDING"}
    return {key: dict(next(iter(group["bundles"].values()), {})) for key, group in waiting.items()}


def find_unfit(
    nodes: Sequence[NodeSize], configs: Sequence[TrialConfig], directory: Path, url: str | None, progress: Progress
) -> dict[str, str]:
    """Find the nodes on which trials cannot work; returns one sentence for each, by the node's id.

    Each node that has CPUs is asked by a task of its own, and compared with this process. `configs` name every data set
    and model of the run, which is kept in `directory` or at `url`. Raises RunFault where no node is left.
    """
    place, mark = Storage(url or f"file://{directory.absolute()}"), f".shared-{uuid.uuid4().hex}"
    place.write(mark, mark.encode())
    try:
        asked = {
            ray.remote(look)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node.id, soft=False))
            .remote(list(configs), place, mark): node
            for node in nodes
            if node.cpus
        }
        own, _ = look(configs, place, mark)
        answers = _collect(asked, progress)
    finally:
        place.remove(mark)
    unfit = {}
    for node in asked.values():
        if differences := describe_differences(own, answers[node.id]):
            unfit[node.id] = f"node {node.name} cannot run trials: {'; '.join(differences)}"
    if asked and len(unfit) == len(asked):
        raise RunFault([f"{sentence}; mend that, or choose other nodes." for sentence in unfit.values()])
    return unfit


def _collect(asked: dict[Any, NodeSize], progress: Progress) -> dict[str, Answer]:
    """Wait for the answers; a node that gives none has a fault instead."""
    what, waiting = "checking the nodes", list(asked)
    deadline, answers = time.monotonic() + SECONDS_TO_ANSWER, dict[str, Answer]()
    progress(what, 0, len(asked))
    while waiting and time.monotonic() < deadline:
        done, waiting = ray.wait(waiting, num_returns=1, timeout=1.0)
        for task in done:
            try:
                answers[asked[task].id] = ray.get(task)
            except RayError as error:
                answers[asked[task].id] = {}, [f"its check failed ({first_line(error)})"]
        progress(what, len(asked) - len(waiting), len(asked))
    late: Answer = {}, [f"no answer in {SECONDS_TO_ANSWER:.0f} s"]
    progress(what, len(asked), len(asked))
    return answers | {asked[task].id: late for task in waiting}


def describe_differences(own: dict[str, str], answer: Answer) -> list[str]:
    """Describe where a node's values differ from `own`, those here by subject, and its faults."""
    found, faults = answer
    known = [(subject, value, own.get(subject)) for subject, value in found.items() if value]
    differences = [
        f"its {subject} is {value}, but {here} here" for subject, value, here in known if here and here != value
    ]
    return [*differences, *(fault.rstrip(".") for fault in faults)]


def look(configs: Sequence[TrialConfig], place: Storage, mark: str) -> Answer:
    """Look at what trials need in this process: packages, the run at `place`, cache, data and models."""
    found, faults = {name: version(name) for name in COMPARED_PACKAGES}, list[str]()
    checks: dict[str, Callable[[], str]] = {"run directory": partial(_check_run_directory, place, mark)}
    checks |= {f"data {config.data}": partial(_hash_data, config) for config in configs}
    models = (name for config in configs for name in (config.model, config.vision_model, config.language_model) if name)
    checks |= {f"model {name}": partial(_hash_model, name) for name in models}
    for subject, check in checks.items():
        try:
            found[subject] = check()
        except (MedcapError, OSError) as error:
            faults.append(f"{subject}: {first_line(error)}")
    return found, faults


def _check_run_directory(place: Storage, mark: str) -> str:
    if place.read(mark) != mark.encode():
        raise RunFault(
            f"{place.url} is not the same there; put it on a file system that all nodes share (--out DIR), or give a "
            "URL such as --out s3://BUCKET/RUN, which needs none"
        )
    own = f"{mark}-{uuid.uuid4().hex}"
    place.write(own, b"")
    place.remove(own)
    return ""


def _hash_data(config: TrialConfig) -> str:
    """Hash all records, and decode some images of each split, which writes to the cache folder too."""
    from medcap_core.data.prepare import judge_records, load_dataset
    from medcap_core.data.records import SPLITS, hash_records
    from medcap_core.models import load_geometry

    records = load_dataset(config).splits
    few = {f"max_{name}_images": _IMAGES_OPENED for name in SPLITS} | {"max_bad_record_share": 1.0}
    bad = judge_records(config.model_copy(update=few), load_geometry(config), whole_validation=False)
    hashed = hash_records([record for name in SPLITS for record in records[name]])[:_SHOWN_DIGITS]
    return hashed + (f" with {len(bad)} unreadable {records['train'][0].noun}s" if bad else "")


def _hash_model(name: str) -> str:
    """Hash the weights; empty for those of the Hub that are not in the cache."""
    from medcap_core.models import hash_weights

    return (hash_weights(name) or "")[:_SHOWN_DIGITS]
