"""Cost of a step of each method over BEST-RQ's: the table of docs/methods.md.

FLOPs and memory are counted on fake tensors; time follows from the planner's rates for an
H100 (docs/plan.md). The batch is four utterances of 12.3 s, one GPU's share of C2's batch on
eight GPUs. Memory is that of `birq plan` for this batch on one GPU: parameters, accumulated
gradients, AdamW, teacher, codebooks and the peak of a step.

    python bench/methods.py conf/tuning/train_{best_rq,birq,rvq,bridle}_c2.yaml

The first is the reference. No GPU is needed; each takes a minute on one core.
"""

import argparse
from pathlib import Path

from espnet2_birq.config import sampling_rate
from espnet2_birq.errors import ConfigError
from espnet2_birq.evaluation.markdown import markdown_table
from espnet2_birq.planning.configured import parse_config
from espnet2_birq.planning.cost import FakeModel
from espnet2_birq.planning.gpus import GPUS
from espnet2_birq.planning.plan import memory_of_step, step_seconds

UTTERANCES, SECONDS = 4, 12.3


def cost_of(config: Path) -> tuple[float, float, float]:
    """Return FLOPs, seconds and bytes of a step."""
    args = parse_config(config, [])
    model = FakeModel(args)
    samples = round(SECONDS * sampling_rate(args.frontend_conf))
    cost = model.count_step(UTTERANCES, samples)
    seconds, _ = step_seconds(cost, GPUS["h100"], True, None)
    late = model.updates  # all three columns are those of the last phase
    memory = sum(memory_of_step(args, model, UTTERANCES, samples, updates=late))
    return cost.flops, seconds, memory


def main(argv=None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", type=Path, nargs="+", help="YAML files")
    configs = parser.parse_args(argv).configs
    try:
        costs = {path: cost_of(path) for path in configs}
    except ConfigError as error:
        parser.error(str(error))
    first = next(iter(costs.values()))
    rows = [
        [path.stem, *(f"{x / y:.2f}" for x, y in zip(cost, first))]
        for path, cost in costs.items()
    ]
    print(markdown_table(["configuration", "FLOPs", "time", "memory"], rows))


if __name__ == "__main__":
    main()
