"""Put the measured numbers into the documents: ``python benchmarks/tables.py``.

What stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` in ``DOCUMENTS`` is made from
``benchmarks/results/*.json`` and replaced. A test holds that the documents are what the results say.
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = ("README.md", "docs/measurements.md", "sslfeat/embedded/README.md")
STAGES = {
    "plan": "plan",
    "write": "decode, pool, write parts",
    "merge": "merge",
    "resume": "resume a finished run",
    "read_back": "read a layer and the ids",
    "verify": "verify all checksums",
}


def table(header, rows):
    """Return a table in Markdown, numbers to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def load_of(record):
    before = ", ".join(f"{load:.1f}" for load in record["load_before"][:1])
    return f"load average before the run {before}"


def extraction(results=RESULTS):
    """Return a table for each device and architecture that was raced."""
    told = []
    for path in sorted(results.glob("extraction-*.json")):
        record = json.loads(path.read_text())
        rows = []
        for name, found in record["results"].items():
            outside = found.get("share_outside_encoder")
            rows.append([
                f"**{name}**" if name.startswith("sslfeat") else name,
                f"{found['audio_seconds_per_second']:.1f}",
                f"{found['ratio']:.2f}",
                f"{found['peak_megabytes']}",
                f"{found['share_of_matrix_peak']:.0%}",
                f"{found['error']:.0e}" if found["error"] else "0",
                "" if outside is None else f"{outside:.0%}",
            ])  # fmt: skip
        title = (
            f"{record['arch']}, {record['device']}: {record['files']} files, {record['audio_seconds']:.0f} s "
            f"of audio; torch {record['versions']['torch']}, transformers {record['versions']['transformers']}; {load_of(record)}."
        )
        header = ["", "audio s/s", "ratio", "peak MB", "of the matrix peak", "largest error", "outside the encoder"]  # fmt: skip
        missing = [f"Not run: {name} ({reason})." for name, reason in record["skipped"].items()]
        told.append("\n\n".join([title, table(header, rows), *missing]))
    return "\n\n".join(told)


def scale(results=RESULTS):
    """Return what each stage takes in seconds, by the clock and of processor time, and in memory, for each number of rows."""
    record = json.loads((results / "scale.json").read_text())
    columns = list(record["rows"].values())

    def cell(found):
        return f"{found['seconds']:.1f} s ({found['processor_seconds']:.1f} s), {found['megabytes']:.0f} MB"

    header = ["", *(f"{int(rows):,} rows" for rows in record["rows"])]
    rows = [[words, *(cell(found[stage]) for found in columns)] for stage, words in STAGES.items()]
    rows.append(["the list of utterances", *(f"{found['plan']['list_megabytes']} MB" for found in columns)])
    rows.append(["the cache", *(f"{found['file_megabytes']:.0f} MB" for found in columns)])
    return f"{record['device']}; {load_of(record)}.\n\n{table(header, rows)}"


def layer(results=RESULTS):
    """Return how fast one layer is read beside numpy.load."""
    record = json.loads((results / "cache.json").read_text())
    header = ["rows", "MB", "ours, ms", "numpy.load, ms", "speed beside numpy.load"]
    rows = [
        [f"{int(rows):,}", f"{found['megabytes']:.0f}", f"{found['read_ms']:.1f}", f"{found['numpy_load_ms']:.1f}", f"{found['share_of_numpy_load']:.2f}"]
        for rows, found in record["layer"]["rows"].items()
    ]  # fmt: skip
    return f"{record['device']}; {load_of(record)}.\n\n{table(header, rows)}"


def heads(results=RESULTS):
    """Return how long many small networks train, beside the loops a user would write."""
    record = json.loads((results / "heads.json").read_text())
    names = {
        "together": "**sslfeat**",
        "perceptrons": "`MLPClassifier` under joblib",
        "skorch_nets": "skorch under joblib",
        "modules": "plain PyTorch, one after another",
        "arithmetic": "the matrix products and Adam alone",
    }
    rows = [
        [words, f"{record[name]['processor_s']:.0f} s", f"{record[name]['times_ours']:.1f}"]
        for name, words in names.items()
        if name in record
    ]
    title = f"{record['heads']} heads, {record['epochs']} epochs; {record['device']}; load average {record['load']:.1f}."
    return f"{title}\n\n{table(['', 'processor time', 'times ours'], rows)}"


def menu(results=RESULTS):
    """Return how long the classical classifiers take, beside scikit-learn's own loop over layers."""
    record = json.loads((results / "menu.json").read_text())
    rows = [
        [name, f"{found['ours']['processor_s']:.1f} s", f"{found['theirs']['processor_s']:.1f} s", f"{found['times_faster']:.1f}"]
        for name, found in record["results"].items()
    ]  # fmt: skip
    both = record["processor_s"]
    rows.append(
        ["**all**", f"{both['ours']:.1f} s", f"{both['theirs']:.1f} s", f"**{record['times_faster']:.1f}**"]
    )
    different = sum(found["different_predictions"] for found in record["results"].values())
    title = (
        f"{record['utterances']} utterances, {record['layers']} layers, {record['speakers']} folds; {record['device']}; "
        f"load average {record['load']:.1f}; predictions that differ: {different}."
    )
    return f"{title}\n\n{table(['', 'sslfeat', '`cross_val_predict(n_jobs=-1)` over layers', 'times faster'], rows)}"


def embedded(results=RESULTS):
    """Return what the encoder in the box reaches on Emo-DB, beside what it must beat."""
    record = json.loads((results / "embedded.json").read_text())
    rows = [
        [f"**{name}**" if name.startswith("embedded") else name, f"{found['balanced_accuracy']:.3f}", "{:.2f} to {:.2f}".format(*found["interval"])]
        for name, found in record["results"].items()
    ]  # fmt: skip
    return table(["features", "balanced accuracy", "95 % over speakers"], rows)


BLOCKS = {
    "embedded": embedded,
    "extraction": extraction,
    "heads": heads,
    "menu": menu,
    "scale": scale,
    "layer": layer,
}


def filled(text, results=RESULTS):
    """Return a document with every marked block made anew."""

    def make(match):
        return f"{match[1]}\n\n{BLOCKS[match[2]](results)}\n\n<!-- end {match[2]} -->"

    return re.sub(r"(<!-- begin (\w+) -->).*?<!-- end \2 -->", make, text, flags=re.DOTALL)


def main():
    for name in DOCUMENTS:
        path = ROOT / name
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
