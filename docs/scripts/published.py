"""The tables of arXiv 2103.10142 (Rehm et al. 2021) and the figures of its slides, the printed values beside ours."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pages import head, row

from calogan.benchmark.comparison import Comparison
from calogan.reporting.tables import number
from calogan.validation.metrics import Estimate
from calogan.validation.report import ValidationReport

BATCH = 128  # of the published times
TITLES = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "int8": "INC int8",
    "tflite-float16": "TFLite float16",
    "tflite-int8": "TFLite int8",
    "onnxruntime-int8": "ONNX Runtime int8",
    "openvino-int8": "OpenVINO int8",
}
PRINTED = ("float32", "int8", "tflite-float16", "tflite-int8")  # the columns of the paper's tables
ONE_RANGE = "INC int8, one range"  # Intel Neural Compressor without bands of energy, all operations in int8
# Printed values; none has an error.
TABLE_1 = {"float32": 55.7, "int8": 32.3}  # ms for a batch, 7 streams of 8 threads on two Xeon 8280
SIZES_MB = {"float32": 8.08, "int8": 3.57}
TABLE_2 = {"FusedBatchNorm": 9.37, "Dequantize": 6.06}  # ms of the 32.3 of int8
TABLE_3 = {
    "y": ("12.00 / 1.45", "12.02 / 1.46", "12.03 / 1.45", "12.05 / 1.13", "12.10 / 1.19"),
    "z": ("13.85 / 4.62", "13.81 / 4.50", "13.91 / 4.48", "13.78 / 4.50", "14.25 / 4.62"),
}
TABLE_4 = {"float32": "0.061", "int8": "0.053", "tflite-float16": "0.254", "tflite-int8": "0.340"}
TABLE_5 = {"int8": "1.550 / 0.191", "tflite-float16": "0.133 / 0.291", "tflite-int8": "4.054 / 0.721"}
FASTER_2D = 2.1  # of Conv2D than Conv3D
OVER_GEANT4 = 67_000  # of int8 on the node, over one thread of Geant4
CORES = 56
# What the claim is judged by: the title of each metric, a distance from Geant4 or from float32.
CLAIMED = {
    "composite_mse": "composite MSE",
    "y_std_shift": "width along y (cells)",
    "z_mean_shift": "mean depth (layers)",
    "z_std_shift": "width along z (layers)",
    "y_tail_first": "first five cells along y",
    "y_tail_last": "last five cells along y",
    "sampling_fraction_shift": "sampling fraction",
    "sampling_fraction_shift_2_50gev": "sampling fraction, 2-50 GeV",
    "hits_shift": "hits",
    "pixelwise_relative": "pixel-wise from float32, of ECAL",
}
_CLEAR = 3.0  # standard deviations of a difference that decides


@dataclass(frozen=True)
class Measured:
    """Everything measured about one model.

    Attributes:
        comparison: physics and speed of each candidate.
        profiles: time of each operation, ms per shower, see `profiling.network_profiles`.
        streams: showers per second by precision and (streams, threads).
        separable: AUC of boosted trees between int8 and float32 with other random numbers.
    """

    comparison: Comparison
    profiles: Mapping[str, Mapping[str, float]]
    streams: Mapping[str, Mapping[tuple[int, int], float]]
    separable: Estimate

    @property
    def reports(self) -> Mapping[str, ValidationReport]:
        """Reports by candidate."""
        return self.comparison.reports


Models = Mapping[str, Measured]


def table_1(models: Models) -> list[str]:
    """Inference time, its ratio to float32, and throughput."""
    names = list(next(iter(models.values())).comparison.timed.timings)
    lines = [
        f"**Table 1, inference of {BATCH} showers, ms** (paper: a node of {CORES} cores; ours: one core), and the ratio to float32.",
        "",
        *head(TITLES[name] for name in names),
        row("paper", [_time(TABLE_1.get(name), TABLE_1["float32"]) for name in names]),
    ]
    for model, measured in models.items():
        timings = measured.comparison.timed.timings
        times = [(timings[name].network_ms_per_shower, timings[name].network_speedup) for name in names]
        lines.append(row(f"`{model}`, network", [f"{BATCH * ms:.4g} ({ratio:.2f}x)" for ms, ratio in times]))
        whole = [(timings[name].ms_per_shower, timings[name].speedup) for name in names]
        lines.append(row(f"`{model}`, whole call", [f"{BATCH * ms:.4g} ({ratio:.2f}x)" for ms, ratio in whole]))
        lines.append(row(f"`{model}`, showers/s", [f"{timings[name].showers_per_s:.4g}" for name in names]))
    return [*lines, ""]


def _time(ms: float | None, float32: float) -> str:
    return f"{ms} ({float32 / ms:.2f}x)" if ms else ""


def figure_4(models: Models) -> list[str]:
    """Throughput of streams and threads."""
    lines = [
        "**Figure 4, streams and threads.** Showers per second of several generators at once, each with several threads. The",
        f"paper finds 7 streams of 8 threads the best of a node of {CORES} cores. Here, with all cores of this machine:",
        "",
    ]
    for model, measured in models.items():
        settings = list(next(iter(measured.streams.values())))
        lines += [
            *head(f"{streams} x {threads}" for streams, threads in settings),
            *(
                row(f"`{model}`, {TITLES[name]}", [f"{rates[each]:.4g}" for each in settings])
                for name, rates in measured.streams.items()
            ),
            "",
            f"![streams and threads of {model}](figures/{model}_streams.png)",
            "",
        ]
    return lines


def table_2(models: Models) -> list[str]:
    """Time by operation."""
    lines = [
        "**Table 2, time by operation.** Paper, int8, of 32.3 ms: "
        + ", ".join(f"{name} {time} ms ({time / TABLE_1['int8']:.0%})" for name, time in TABLE_2.items())
        + ".",
        "Here, ms per shower and share of the network, as trained, after the exact rewrites that fold normalisations, and in int8:",
        "",
    ]
    for model, measured in models.items():
        lines += [f"`{model}`:", "", *head(measured.profiles), *_operation_rows(measured.profiles), ""]
    return lines


def _operation_rows(profiles: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    total = {name: sum(times.values()) for name, times in profiles.items()}
    kinds = dict.fromkeys(kind for times in profiles.values() for kind in times)
    largest = {kind: max(times.get(kind, 0.0) / total[name] for name, times in profiles.items()) for kind in kinds}
    for kind in sorted(kinds, key=lambda kind: -largest[kind]):
        if largest[kind] >= 0.01:
            cells = [times.get(kind, 0.0) for times in profiles.values()]
            yield row(kind, [f"{ms:.3f} ({ms / total[name]:.0%})" for name, ms in zip(profiles, cells, strict=True)])
    yield row("all", [f"{ms:.3f}" for ms in total.values()])


def memory(models: Models) -> list[str]:
    """Size of the network."""
    names = list(next(iter(models.values())).comparison.timed.timings)
    sizes = {
        f"`{model}`": {name: timing.size_mb for name, timing in measured.comparison.timed.timings.items()}
        for model, measured in models.items()
    }
    counts = {model: measured.comparison.timed.timings["int8"].operations for model, measured in models.items()}
    left = [
        f"{each.float_arithmetic} of {each.float_arithmetic + each.integer_convolutions + each.integer_products} in `{model}`"
        for model, each in counts.items()
    ]
    return [
        "**Memory: size of the network, MB**, and how many times smaller than float32 (text and slides).",
        "",
        *head(TITLES[name] for name in names),
        *(
            row(
                model, [f"{own[name]:.2f} ({own['float32'] / own[name]:.2f}x)" if name in own else "" for name in names]
            )
            for model, own in ({"paper": SIZES_MB} | sizes).items()
        ),
        "",
        f"The paper left some layers in float32. Operations of INC int8 that stay float32 here: {', '.join(left)}.",
        "",
    ]


def table_3(models: Models) -> list[str]:
    """Mean and standard deviation of the profiles."""
    lines = [
        "**Table 3, mean / standard deviation of the profiles, cells counted from 0.**",
        "",
        *head(["Geant4", *(TITLES[name] for name in PRINTED)]),
    ]
    for axis, printed in TABLE_3.items():
        lines.append(row(f"{axis}, paper", list(printed)))
        for model, measured in models.items():
            first = measured.reports["float32"].metrics
            cells = [tuple(_of_reference(first, f"{axis}_{name}") for name in ("mean", "std"))]
            cells += [
                tuple(measured.reports[name].metrics[f"physics/{axis}_{moment}"] for moment in ("mean", "std"))
                for name in PRINTED
            ]
            lines.append(row(f"{axis}, `{model}`", [" / ".join(map(number, pair)) for pair in cells]))
    return [*lines, ""]


def _of_reference(metrics: Mapping[str, Estimate], name: str) -> Estimate:
    """The value of the reference, from the candidate's and the difference of both, whose errors are independent."""
    own, shift = metrics[f"physics/{name}"], metrics[f"physics/{name}_shift"]
    return Estimate(own.value - shift.value, math.sqrt(max(0.0, shift.error**2 - own.error**2)))


def figures_5_and_6(models: Models) -> list[str]:
    """Mean profiles."""
    lines = [
        "**Figures 5 and 6, mean profiles along y and z**, linear, logarithmic and relative to Geant4, with errors of one standard",
        "deviation. The paper finds that TFLite int8 fails in the first and last five cells along y.",
        "",
    ]
    for model in models:
        lines += [f"![mean profiles of {model}](figures/{model}_profiles.png)", ""]
    return lines


def tables_4_and_5(models: Models) -> list[str]:
    """Composite MSE, and the difference from float32."""
    lines = [
        "**Table 4, composite MSE** (the paper does not specify binning and normalisation; ours is defined in `validation/metrics.py`,",
        "with the contribution of finite samples subtracted, and is 0 for equal showers).",
        "",
        *head(TITLES[name] for name in PRINTED),
        row("paper", [TABLE_4[name] for name in PRINTED]),
        *(
            row(f"`{model}`", [number(measured.reports[name].metrics["physics/composite_mse"]) for name in PRINTED])
            for model, measured in models.items()
        ),
        "",
        "**Table 5, pixel-wise difference from float32 of the same latent, mean / standard deviation, GeV**, and the mean share of ECAL.",
        "",
        *head(TITLES[name] for name in PRINTED[1:]),
        row("paper", [TABLE_5[name] for name in PRINTED[1:]]),
    ]
    for model, measured in models.items():
        lines.append(row(f"`{model}`", [_pixelwise(measured.reports[name].metrics) for name in PRINTED[1:]]))
    return [*lines, ""]


def _pixelwise(metrics: Mapping[str, Estimate]) -> str:
    mean, spread, share = (metrics[f"physics/pixelwise_{name}"] for name in ("mean", "std", "relative"))
    return f"{number(mean)} / {number(spread)}; {number(share, scale=100)} %"


def claim(models: Models) -> list[str]:
    """The paper's claim that INC keeps the physics better than TFLite, judged metric by metric."""
    lines = [
        "## Does Intel Neural Compressor keep the physics better than TFLite?",
        "",
        "The paper says so. Distances from Geant4 of its two kinds of int8, and of float16 of TFLite; the last column names the int8 that is",
        f"closer by more than {_CLEAR:g} standard deviations of the difference. Both samples share the Geant4 showers and the latent numbers, so",
        "that their errors are correlated: a difference is clearer than that. `one range` is Neural Compressor as TFLite is used:",
        "the same energies for calibration, one range of activations for all of them, and everything in int8.",
        "",
    ]
    for model, measured in models.items():
        ours = [name for name in ("int8", ONE_RANGE) if name in measured.reports]
        names = ["float32", *ours, "tflite-int8", "tflite-float16"]
        lines += [
            f"`{model}`:",
            "",
            *head(
                [
                    *(TITLES.get(name, name) for name in names),
                    *(f"{TITLES.get(name, name)} or TFLite int8" for name in ours),
                ]
            ),
        ]
        for metric, title in CLAIMED.items():
            found = {name: measured.reports[name].metrics.get(f"physics/{metric}") for name in names}
            if all(found.values()):
                values = {name: estimate for name, estimate in found.items() if estimate}
                decisions = [_closer(values[name], values["tflite-int8"]) for name in ours]
                lines.append(row(title, [*(number(values[name]) for name in names), *decisions]))
        passed = {name: _passed(measured.reports[name]) for name in names}
        lines += [row("gates passed", [*map(str, passed.values()), *("" for _ in ours)]), ""]
        lines += [f"- Table 4's metric of `{model}`: {_verdict(measured, name)}" for name in ours]
        float32, half = (measured.reports[name].metrics for name in ("float32", "tflite-float16"))
        lines += [
            (
                f"- TFLite float16 of `{model}`: {number(half['physics/composite_mse'])}, float32 {number(float32['physics/composite_mse'])}; "
                f"they differ by {number(half['physics/pixelwise_relative'], scale=100)} % of ECAL. The paper has {TABLE_4['tflite-float16']} "
                f"and {TABLE_4['float32']}: half precision of the weights does not explain that."
            ),
            "",
        ]
    return lines


def _closer(own: Estimate, tflite: Estimate) -> str:
    sigma = _significance(own, tflite)
    if abs(sigma) < _CLEAR:
        return f"neither ({sigma:+.1f})"
    return f"{'INC' if sigma > 0 else 'TFLite'} ({sigma:+.1f})"


def _significance(own: Estimate, tflite: Estimate) -> float:
    """How much larger the distance of TFLite is, in standard deviations of the difference."""
    error = math.hypot(own.error, tflite.error)
    difference = abs(tflite.value) - abs(own.value)
    return difference / error if error else math.copysign(math.inf, difference) if difference else 0.0


def _verdict(measured: Measured, name: str) -> str:
    own, tflite = (measured.reports[each].metrics["physics/composite_mse"] for each in (name, "tflite-int8"))
    sigma = _significance(own, tflite)
    word = "undecided" if abs(sigma) < _CLEAR else "confirmed" if sigma > 0 else "refuted"
    return (
        f"{TITLES.get(name, name)} {number(own)}, TFLite int8 {number(tflite)}: the claim is **{word}** ({sigma:+.1f} "
        "standard deviations)."
    )


def _passed(report: ValidationReport) -> int:
    return sum(result.verdict == "passed" for result in report.gates.values())


def conv3d(
    macs: Mapping[str, int], times: Mapping[str, Mapping[str, float]], three: str, two: str, narrow: str
) -> list[str]:
    """Conv3D against Conv2D.

    Args:
        macs: multiply-adds per shower by network.
        times: ms per shower by setting and network.
        three: name of the network with Conv3D.
        two: name of that with Conv2D, as published.
        narrow: name of that with Conv2D and the arithmetic of Conv3D.
    """
    larger = macs[two] / macs[three]
    rates = [f"{larger * own[three] / own[two]:.1f} ({setting})" for setting, own in times.items()]
    titles = {three: f"Conv3D, `{three}`", two: f"Conv2D, `{two}`", narrow: "Conv2D, fewer channels"}
    return [
        f"**Conv3D to Conv2D** (slides: {FASTER_2D} times faster). float32, ms per shower of one core, in the same rounds; ratios are the time",
        "of Conv3D over that of Conv2D. The published networks differ in arithmetic, so a network with the layers of the published",
        "Conv2D and fewer channels is timed too, with the arithmetic of Conv3D.",
        "",
        *head([*titles.values(), "ratio, as published", "ratio, equal arithmetic"]),
        row("10^9 multiply-adds", [*(f"{macs[name] / 1e9:.2f}" for name in titles), "", ""]),
        *(
            row(
                setting,
                [
                    *(f"{own[name]:.3g}" for name in titles),
                    f"{own[three] / own[two]:.2f}",
                    f"{own[three] / own[narrow]:.2f}",
                ],
            )
            for setting, own in times.items()
        ),
        "",
        f"The published Conv2D network has {larger:.1f} times the arithmetic of the Conv3D one. To be {FASTER_2D} times faster all the same, it would",
        f"have to compute {FASTER_2D * larger:.1f} times as many multiply-adds a second. Measured here, in times of those of Conv3D:",
        f"{'; '.join(rates)}.",
        "",
    ]


def over_geant4(models: Models, seconds: float, showers: int) -> list[str]:
    """Speed over Geant4."""
    names = list(next(iter(models.values())).comparison.timed.timings)
    return [
        f"**Over Geant4** (paper: {OVER_GEANT4:,} times for int8, a node of {CORES} cores over one thread, {OVER_GEANT4 / CORES:,.0f} per core). Here",
        f"one core over one core: Geant4 takes {seconds:.2f} s per shower, flat in Ep ({showers} showers; production cut 0.7 mm), and a whole",
        "call of the generator is faster by",
        "",
        *head(TITLES[name] for name in names),
        *(
            row(
                f"`{model}`",
                [f"{1000 * seconds / measured.comparison.timed.timings[name].ms_per_shower:,.0f}" for name in names],
            )
            for model, measured in models.items()
        ),
        "",
    ]


def sampling_fraction(models: Models, bins: Sequence[str]) -> list[str]:
    """Sampling fraction, the open problem of the slides.

    Args:
        models: everything measured.
        bins: bins of Ep in the names of the metrics, such as `2_50`.
    """
    lines = [
        "**Sampling fraction** (slides: the open problem; quantization there did not take it into account). Relative shift from Geant4, %:",
        "",
        *head(TITLES[name] for name in PRINTED),
    ]
    for model, measured in models.items():
        for energies in bins:
            name = f"physics/sampling_fraction_shift_{energies}gev"
            found = [measured.reports[each].metrics.get(name) for each in PRINTED]
            lines.append(
                row(f"`{model}`, {energies.replace('_', '-')} GeV", [number(each, scale=100) for each in found])
            )
    lines.append("")
    for model in models:
        lines += [f"![sampling fraction and resolution of {model}](figures/{model}_sampling_fraction.png)", ""]
    return lines
