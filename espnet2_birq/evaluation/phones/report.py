"""Markdown tables of the results of phones.measure()."""

from espnet2_birq.evaluation.markdown import markdown_table


def make_tables(result: dict) -> str:
    """Format tables of accuracies, differences, layers' units and objectives' labels."""
    models = result["models"]
    parts = [_head(result), _accuracies(result)]
    parts += [_layers(model) for model in models]
    if any(model["objectives"] for model in models):
        parts.append(_objectives(models))
    return "\n\n".join(parts)


def _head(result: dict) -> str:
    train, test = result["train_speakers"], result["test_speakers"]
    majority = result["models"][0]["majority"]
    return (
        f"Accuracy of a linear probe on the frames of {len(test)} speakers, trained on "
        f"those of {len(train)} others ({len(result['utterances'])} utterances, "
        f"{len(result['phones'])} phones): mean over the test speakers (its standard "
        "error). Differences are paired by speaker. The most frequent phone: "
        f"{_with_error(majority)}."
    )


def _accuracies(result: dict) -> str:
    first, *others = result["models"]
    columns = [{x["layer"]: _with_error(x["accuracy"]) for x in first["layers"]}]
    head = ["layer", first["name"]]
    for model, difference in zip(others, result["differences"]):
        head += [model["name"], "difference"]
        columns += [
            {x["layer"]: _with_error(x["accuracy"]) for x in model["layers"]},
            {x["layer"]: _with_error(x, "+") for x in difference["layers"]},
        ]
    layers = sorted(set().union(*columns))
    rows = [
        [layer, *(column.get(layer, "-") for column in columns)] for layer in layers
    ]
    return markdown_table(head, rows)


def _layers(model: dict) -> str:
    has_abx = any("abx" in layer for layer in model["layers"])
    head = ["layer", "size", "PNMI", "by chance", "units in use", "effective rank"]
    head += ["variance", *(["ABX within %", "across %"] if has_abx else [])]
    rows = []
    for layer in model["layers"]:
        row = [layer["layer"], layer["size"], f"{layer['pnmi']:.3f}"]
        row += [f"{layer['pnmi_chance']:.3f}", f"{layer['unit_perplexity']:.1f}"]
        row += [f"{layer['effective_rank']:.1f}", f"{layer['variance']:.3g}"]
        if has_abx:
            row += [f"{100 * layer['abx'][x]:.2f}" for x in ("within", "across")]
        rows.append(row)
    return f"{model['name']}, {model['frames']} frames:\n\n" + markdown_table(
        head, rows
    )


def _objectives(models: list[dict]) -> str:
    head = ["labels of", "objective", "codebooks", "PNMI", "by chance", "codes in use"]
    rows = []
    for model in models:
        for objective in model["objectives"]:
            books = objective["books"]
            row = [model["name"], objective["name"], len(books)]
            for key, digits in (("pnmi", 3), ("chance", 3), ("perplexity", 1)):
                values = [f"{book[key]:.{digits}f}" for book in books]
                least, most = min(values, key=float), max(values, key=float)
                row.append(least if least == most else f"{least} to {most}")
            rows.append(row)
    return markdown_table(head, rows)


def _with_error(value: dict, sign: str = "") -> str:
    error = "-" if value["error"] is None else f"{value['error']:.4f}"
    return f"{value['mean']:{sign}.4f} ({error})"
