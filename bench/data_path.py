"""Costs of reading audio and of padding, and their effect on training speed.

    python bench/data_path.py read --librispeech DIR
    python bench/data_path.py padding --librispeech DIR
    python bench/data_path.py train --librispeech DIR --iterations 12

DIR has FLAC files, in any subfolders.

`read` runs ESPnet's iterator and collation, as in ssl_train, alone in this process. It
prints seconds of audio per second of one core, and the number of workers (num_workers)
needed for GPUs of several speeds.

`padding` compares batch types on a corpus of --hours with the same distribution of
lengths. It prints the share of padding in a batch, and the share of time lost on several
GPUs by padding and by waiting for the GPU with the largest part. (ESPnet distributes a
batch over GPUs, every n-th utterance to each; --batch_seconds is per GPU.)

`train` compares seconds of audio per second of ssl_train, from its log, with steps of the
same model on noise of the same lengths; both run in separate processes with --threads
threads.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCH.parent), str(BENCH)]

import numpy as np  # noqa: E402
import soundfile  # noqa: E402
import torch  # noqa: E402
from espnet2.samplers.build_batch_sampler import build_batch_sampler  # noqa: E402
from espnet2.samplers.category_power_sampler import CategoryPowerSampler  # noqa: E402
from espnet2.train.distributed_utils import DistributedOption  # noqa: E402

from espnet2_birq.errors import DataError  # noqa: E402
from espnet2_birq.experiments.training_log import read_training_log  # noqa: E402
from espnet2_birq.tasks.like_lengths import sort_into_batches  # noqa: E402
from espnet2_birq.tasks.ssl import SSLTask  # noqa: E402

FS = 16000


def list_audio(librispeech: Path, folder: Path, limit: int) -> dict:
    """Write wav.scp and speech_shape of the FLAC files below a folder.

    Returns:
        Mapping from utterance to its number of samples.

    Raises:
        DataError: There is no audio.
    """
    paths = sorted(librispeech.rglob("*.flac"))
    if len(paths) > limit:
        paths = [paths[i * len(paths) // limit] for i in range(limit)]
    if not paths:
        raise DataError(f"{librispeech}: no FLAC file below it")
    lengths = {path.stem: soundfile.info(path).frames for path in paths}
    for name, values in (
        ("wav.scp", {path.stem: path.resolve() for path in paths}),
        ("speech_shape", lengths),
    ):
        lines = [f"{key} {value}\n" for key, value in values.items()]
        (folder / name).write_text("".join(lines))
    return lengths


def options(args, folder: Path) -> list:
    """Return the options of ssl_train that all parts share."""
    data = f"{folder}/wav.scp,speech,sound"
    return [
        *("--config", args.config, "--output_dir", str(folder / "exp"), "--ngpu", "0"),
        *("--train_data_path_and_name_and_type", data),
        *("--train_shape_file", f"{folder}/speech_shape"),
        *("--batch_type", "numel", "--batch_bins", str(int(args.batch_seconds * FS))),
        *("--sort_in_batch", "descending", "--num_workers", str(args.num_workers)),
        *("--num_att_plot", "0", "--max_epoch", "1"),
    ]


def batches(command: list):
    """Return the iterator of the first epoch."""
    args = SSLTask.get_parser().parse_args(command)
    factory = SSLTask.build_iter_factory(args, DistributedOption(), mode="train")
    return factory.build_iter(epoch=1)


def read(args, folder: Path):
    """Read everything twice; the second time, files are in the system's cache."""
    args.num_workers = 0
    for number in range(2):
        start, wall, samples = time.process_time(), time.perf_counter(), 0
        for _, batch in batches(options(args, folder)):
            samples += int(batch["speech_lengths"].sum())
        core, wall = time.process_time() - start, time.perf_counter() - wall
        print(
            f"pass {number + 1}: {samples / FS / 3600:.2f} h, {core:.1f} core "
            f"seconds ({wall:.1f} s): {samples / FS / core:.0f} s of audio "
            "a core second"
        )
    rate = samples / FS / core
    print("\n| s of audio a GPU processes per second | workers needed |\n|---|---|")
    for speed in args.speeds:
        print(f"| {speed:.0f} | {speed / rate:.1f} |")


def shares(batch_list: list, lengths: dict, gpus: int):
    """Compute the share of padding, and the share of time lost on several GPUs.

    Args:
        batch_list: Keys of each batch.
        lengths: Mapping from utterance to its number of samples.
        gpus: Number of GPUs. Batches with fewer utterances, which ESPnet does not
            allow, are skipped.
    """
    speech = padded = taken = 0
    for batch in batch_list:
        if len(batch) < gpus:
            continue
        speech += sum(lengths[key] for key in batch)
        padded += len(batch) * max(lengths[key] for key in batch)
        parts = [[lengths[key] for key in batch[i::gpus]] for i in range(gpus)]
        taken += gpus * max(len(part) * max(part) for part in parts)
    return 1 - speech / padded, 1 - speech / taken


def draw_lengths(lengths: dict, hours: float, folder: Path) -> dict:
    """Make a larger corpus with the same distribution of lengths.

    In a small corpus, utterances of a batch differ more in length than in a large one.

    Returns:
        Mapping from utterance to its number of samples, which is also written as
        speech_shape, with category2utt.
    """
    known = sorted(lengths.values())
    number = round(hours * 3600 * FS * len(known) / sum(known))
    draws = np.quantile(known, np.random.RandomState(0).rand(number))
    drawn = {f"utt{i:07}": int(x) for i, x in enumerate(draws)}
    lines = [f"{key} {value}\n" for key, value in drawn.items()]
    (folder / "speech_shape").write_text("".join(lines))
    keys = list(drawn)  # split into two languages, one with a tenth of the utterances
    tenth = len(keys) // 10
    languages = f"rare {' '.join(keys[:tenth])}\ncommon {' '.join(keys[tenth:])}\n"
    (folder / "category2utt").write_text(languages)
    return drawn


def make_batches(kind: str, seconds: float, lengths: dict, folder: Path) -> list:
    """Make batches of about `seconds`, of one kind."""
    size = round(seconds * FS * len(lengths) / sum(lengths.values()))
    if kind == "unsorted":  # ESPnet keeps the order of the list, random here
        keys = list(lengths)
        return [keys[i : i + size] for i in range(0, len(keys), size)]
    if kind.startswith("catpow"):
        sampler = CategoryPowerSampler(
            batch_bins=round(seconds * FS),
            shape_files=[f"{folder}/speech_shape"],
            upsampling_factor=0.5,
            category2utt_file=f"{folder}/category2utt",
        )
        if kind == "catpow, ESPnet's":
            return list(sampler)
        drawn = [key for batch in sampler for key in batch]
        return sort_into_batches(drawn, lengths, round(seconds * FS))
    return list(
        build_batch_sampler(
            type=kind,
            batch_size=size,
            batch_bins=round(seconds * FS),
            shape_files=[f"{folder}/speech_shape"],
            fold_lengths=[80000],  # birq.sh's speech_fold_length
            sort_in_batch="descending",
        )
    )


def padding(args, folder: Path, lengths: dict):
    """Compare ways to make batches of about --batch_seconds per GPU."""
    lengths = draw_lengths(lengths, args.hours, folder)
    titles = ["batch_type", "batches", "padding %"]
    titles += [f"lost on {n} GPUs %" for n in args.gpus]
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
    kinds = ["numel", "length", "sorted", "folded", "unsorted"]
    for kind in [*kinds, "catpow, ESPnet's", "catpow, ours"]:
        found = make_batches(kind, args.batch_seconds, lengths, folder)
        cells = [kind, str(len(found)), f"{100 * shares(found, lengths, 1)[0]:.1f}"]
        for number in args.gpus:  # a batch is distributed over all GPUs
            joint = number * args.batch_seconds
            found = make_batches(kind, joint, lengths, folder)
            cells.append(f"{100 * shares(found, lengths, number)[1]:.1f}")
        print("| " + " | ".join(cells) + " |", flush=True)


def train(args, folder: Path):
    """Run ssl_train on the audio, then steps on noise of the same shapes."""
    skip = args.warmup
    valid = "".join((folder / "wav.scp").open().readlines()[:2])
    (folder / "valid.scp").write_text(valid)
    shapes = "".join((folder / "speech_shape").open().readlines()[:2])
    (folder / "valid_shape").write_text(shapes)
    command = options(args, folder) + [
        *("--valid_data_path_and_name_and_type", f"{folder}/valid.scp,speech,sound"),
        *("--valid_shape_file", f"{folder}/valid_shape", "--log_interval", "1"),
        *("--num_iters_per_epoch", str(args.iterations)),
    ]
    lengths = [x["speech_lengths"].tolist() for _, x in batches(command)]
    (folder / "lengths.json").write_text(json.dumps(lengths))
    env = dict(os.environ, OMP_NUM_THREADS=str(args.threads))
    env["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(BENCH.parent), os.environ.get("PYTHONPATH")])
    )
    (folder / "exp").mkdir()
    with (folder / "exp" / "train.log").open("w") as log:
        subprocess.run(
            [sys.executable, "-m", "espnet2_birq.bin.ssl_train", *command],
            check=True,
            stderr=log,
            env=env,
        )
    intervals = read_training_log(folder / "exp").intervals[skip:]
    real = sum(interval["train_time"] for interval in intervals)
    waited = sum(interval["iter_time"] for interval in intervals)
    own = [sys.executable, __file__, "noise", "--folder", str(folder), "--", *command]
    line = subprocess.run(own, check=True, stdout=subprocess.PIPE, text=True, env=env)
    noise = sum(json.loads(line.stdout.splitlines()[-1])[skip:])
    audio = sum(sum(batch) for batch in lengths[skip:]) / FS
    print(
        f"ssl_train: {audio / real:.1f} s of audio a second, {waited / real:.1%} of "
        f"the time waiting for batches\n"
        f"noise: {audio / noise:.1f} s of audio a second\n"
        f"ssl_train / noise: {noise / real:.1%}"
    )


def noise(args):
    """Run steps of the configuration's model on noise; print seconds of each."""
    from espnet2_birq.kernels.allocator import keep_large_blocks

    keep_large_blocks()  # as ssl_train does
    conf = SSLTask.get_parser().parse_args(args.command)
    torch.manual_seed(0)
    model = SSLTask.build_model(conf).train()
    (optimizer,) = SSLTask.build_optimizers(conf, model)
    seconds = []
    for batch in json.loads((args.folder / "lengths.json").read_text()):
        speech, lengths = 0.1 * torch.randn(len(batch), max(batch)), torch.tensor(batch)
        if not seconds:  # codebooks that begin with k-means, as in training
            model.prepare([dict(speech=speech, speech_lengths=lengths)])
        start = time.perf_counter()
        loss, _, _ = model(speech, lengths)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), conf.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    print(json.dumps(seconds))


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    seconds = dict(read=400.0, padding=400.0, train=20.0)
    for name, default in seconds.items():
        add = parts.add_parser(name).add_argument
        add("--librispeech", type=Path, required=True, help="folder with FLAC files")
        add("--limit", type=int, default=2000, help="maximum number of utterances")
        add("--config", default=str(BENCH / "step.yaml"), help="of ssl_train")
        add("--batch_seconds", type=float, default=default, help="default: %(default)s")
        add("--num_workers", type=int, default=1, help="for train (%(default)s)")
        add("--threads", type=int, default=1, help="for train (%(default)s)")
        add("--iterations", type=int, default=12, help="for train (%(default)s)")
        add("--warmup", type=int, default=2, help="of these not timed (%(default)s)")
        add("--hours", type=float, default=100.0, help="for padding: corpus size")
        add("--gpus", type=int, nargs="+", default=[4, 8], help="for padding")
        add("--speeds", type=float, nargs="+", default=[1000, 2000, 4000, 8000])
    hidden = parts.add_parser("noise", help="used by train")
    hidden.add_argument("--folder", type=Path, required=True)
    hidden.add_argument("command", nargs="+")
    return parser


def main():
    """Measure and print."""
    args = get_parser().parse_args()
    if args.part == "noise":
        return noise(args)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        try:
            lengths = list_audio(args.librispeech, folder, args.limit)
            if args.part == "padding":
                padding(args, folder, lengths)
            else:
                dict(read=read, train=train)[args.part](args, folder)
        except DataError as error:
            sys.exit(f"bench/data_path.py: {error}")


if __name__ == "__main__":
    main()
