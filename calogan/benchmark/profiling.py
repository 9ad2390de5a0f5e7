"""Profile of a frozen network: milliseconds by type of operation."""

import collections
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from numpy.typing import NDArray

from calogan.benchmark import precisions
from calogan.generation import freezing, generator, model_folder
from calogan.generation.graphs import read_graph, session_config

_WARM_UP = 2  # runs in which oneDNN compiles its kernels and TensorFlow folds constants


def operation_times(
    graph: tf.compat.v1.GraphDef, inputs: Mapping[str, NDArray[Any]], *, output: str = "out_outputs", rounds: int = 5
) -> dict[str, float]:
    """Time that one thread spends in each type of operation, ms per shower, longest first.

    The types are those TensorFlow runs, not those in the file: its optimizer fuses and replaces operations first.
    The sum is the time spent in operations; the overhead of starting them, about a microsecond each, is not included.

    Args:
        graph: a frozen network.
        inputs: arrays by name of their placeholder; the first axis is the shower.
        output: name of the output node.
        rounds: number of runs to average.
    """
    with tf.Graph().as_default() as whole:
        tf.import_graph_def(graph, name="")
        feed = {f"{name}:0": values for name, values in inputs.items()}
        showers = len(next(iter(inputs.values())))
        options = tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.SOFTWARE_TRACE)
        times: collections.Counter[str] = collections.Counter()
        with tf.compat.v1.Session(graph=whole, config=session_config(1, whole)) as session:
            operation = whole.get_operation_by_name(output)
            for number in range(_WARM_UP + rounds):
                metadata = tf.compat.v1.RunMetadata()
                session.run(operation, feed, options=options, run_metadata=metadata)
                if number >= _WARM_UP:
                    times.update(_nanoseconds(metadata))
    return {kind: time / (1e6 * rounds * showers) for kind, time in times.most_common()}


def network_profiles(folder: Path) -> dict[str, dict[str, float]]:
    """Profile the network of a model: as trained, rewritten, and in int8 if the model has it.

    Returns:
        `operation_times` of each, ms per shower.

    Raises:
        ModelError: the weights or a network of the model are missing.
    """
    description = model_folder.read(folder)
    features = precisions.network_features(folder, description, generator.BATCH)
    model = freezing.load_generator_network(folder, description)
    with tempfile.TemporaryDirectory(prefix="calogan-") as scratch:
        path = Path(scratch) / "trained.pb"
        freezing.write_network(path, model.network)
        graphs = {"float32, as trained": read_graph(path)}
    for precision in ("float32", "int8"):
        if precision in description.network_files:
            model_folder.check_files(folder, description, precision)
            graphs[precision] = read_graph(folder / description.network_files[precision])
    return {name: operation_times(graph, {"features": features}, rounds=3) for name, graph in graphs.items()}


def _nanoseconds(metadata: tf.compat.v1.RunMetadata) -> dict[str, int]:
    times: collections.Counter[str] = collections.Counter()
    for device in metadata.step_stats.dev_stats:
        for node in device.node_stats:
            # Only the label, "name = Kind(inputs)", has the type of the operation that ran.
            kind = node.timeline_label.partition(" = ")[2].partition("(")[0]
            times[kind] += node.op_end_rel_nanos - node.op_start_rel_nanos
    return dict(times)
