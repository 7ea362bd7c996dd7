"""Run the steps of a matrix, i.e. stages of the recipes, each once."""

import glob
import json
import os
import queue
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from espnet2_birq.datadir.files import write_whole
from espnet2_birq.datadir.stamp import STAMP, check_stamp, sources, write_stamp
from espnet2_birq.errors import DataError
from espnet2_birq.experiments.configs import Configs
from espnet2_birq.experiments.spec import FinetuneSet, Spec, System

TRAIN_VALID = ("train", "valid")


class Runner:
    """Runs unfinished steps in parallel.

    A step has a folder OUT/steps/<name> with its log, its dependencies (key.json) and,
    after success, its input lists (made_from.json) and done.json. Interrupted steps are
    rerun, and ESPnet resumes training.

    Args:
        spec: The matrix.
        out: Output folder.
        data_options: Data options of both run.sh.
        run_options: Execution options of both run.sh, e.g. --ngpu 1.
        gpus: CUDA devices, each for one step at a time; empty: one CPU thread per step.
        phones: Options of espnet2_birq.bin.phone_probe, including data;
            empty: do not run it.
    """

    def __init__(
        self,
        spec: Spec,
        out: Path,
        data_options: str = "",
        run_options: str = "",
        gpus: list[str] | None = None,
        phones: str = "",
    ):
        self.spec = spec
        self.out = out.resolve()
        self.configs = Configs(spec, self.out)
        self.data_options = shlex.split(data_options)
        self.run_options = shlex.split(run_options) or ["--ngpu", str(int(bool(gpus)))]
        self.phones = shlex.split(phones)
        self.gpus: queue.Queue[str] = queue.Queue()
        for gpu in gpus or []:
            self.gpus.put(gpu)
        self.uses_gpus = bool(gpus)

    # ------------------------------------------------------------------ places
    def ssl_exp(self, system: System, seed: int) -> Path:
        """Return the experiment folder of a pretraining run."""
        return self.out / "ssl" / f"ssl_{system.name}_seed{seed}"

    def model(self, name: str, seed: int) -> Path:
        """Return the averaged model of a pretraining run."""
        return self.configs.model(name, seed)

    def asr_exp(self, system: System, seed: int, dataset: str) -> Path:
        """Return the experiment folder of a fine-tuning run."""
        return self.out / "asr" / f"asr_{system.name}_seed{seed}_{dataset}"

    def probe_dir(self, system: System, seed: int) -> Path:
        """Return the folder of a probe."""
        return self.out / "probe" / f"{system.name}_seed{seed}"

    def phones_file(self, system: System, seed: int) -> Path:
        """Return the output file of phone_probe."""
        return self.out / "phones" / f"{system.name}_seed{seed}.json"

    def train_set(self, name: str) -> str:
        """Return the name of a fine-tuning set in dump/raw."""
        one = next(one for one in self.spec.finetune_sets if one.name == name)
        if one.hours is None and one.rest_of is None:
            return self.spec.train_set
        return f"{self.spec.train_set}_{name}"

    def lists(self, *sets: str) -> list[Path]:
        """Return the lists of some sets in asr1's dump/raw."""
        raw = self.spec.recipe / "asr1" / "dump" / "raw"
        return [raw / one / file for one in sets for file in ("wav.scp", "text")]

    def ssl_lists(self) -> list[Path]:
        """Return the lists used in pretraining, and their sources."""
        stats = [self.out / "ssl" / "ssl_stats_raw" / x for x in TRAIN_VALID]
        made_from = [self.spec.recipe / "ssl1" / x for y in stats for x in sources(y)]
        return [*(folder / "speech_shape" for folder in stats), *made_from]

    def asr_lists(self, name: str) -> list[Path]:
        """Return the lists used in fine-tuning on a set, and those of the test sets."""
        made_from = sources(self.out / "asr" / f"stats_{name}")
        lists = self.lists(self.train_set(name), *self.spec.tests)
        return [*lists, *(self.spec.recipe / "asr1" / x for x in made_from)]

    def is_done(self, step: str) -> bool:
        """Whether a step has finished successfully."""
        return (self.out / "steps" / step / "done.json").is_file()

    # ------------------------------------------------------------------- steps
    def prepare(self) -> None:
        """Prepare data and statistics, once for all systems."""
        ssl, asr = self.spec.recipe / "ssl1", self.spec.recipe / "asr1"
        key = [self.data_options, self.run_options, str(self.spec.recipe)]
        conf = self.spec.pretrain
        run_ssl = self._run_sh("ssl", "--train_config", conf, "--stop_stage", 6)
        self._step(
            "data_ssl",
            [*key, conf.read_text()],
            [(ssl, run_ssl)],
            makes=[f"{self.out}/ssl/ssl_stats_raw/{x}/{STAMP}" for x in TRAIN_VALID],
            lists=self.ssl_lists,
        )
        if not self.spec.finetune_sets and self.spec.probe is None:
            return
        config = self._asr_config()
        run_asr = self._run_sh("asr", *config, "--ssl_model", "none")
        sets = [self.spec.train_set, *self.spec.tests]
        self._step(
            "data_asr",
            key,
            [(asr, [*run_asr, "--stop_stage", 5])],
            makes=self.lists(*sets),
            lists=lambda: self.lists(*sets),
        )
        seen = {}
        for one in self.spec.finetune_sets:
            if one.hours is not None:
                seen[one.name] = one.hours
                subset = [sys.executable, "-m", "espnet2_birq.bin.subset_data"]
                subset += ["--hours", str(one.hours)]
                for other in self.spec.finetune_sets:
                    if other.rest_of == one.name:
                        seen[other.name] = one.hours
                        rest = f"dump/raw/{self.train_set(other.name)}"
                        subset += ["--rest", rest]
                subset.append(f"dump/raw/{self.spec.train_set}")
                subset.append(f"dump/raw/{self.train_set(one.name)}")
                rests = [x for x in self.spec.finetune_sets if one.name == x.rest_of]
                drawn = [self.train_set(x.name) for x in (one, *rests)]
                lists = partial(self.lists, self.spec.train_set, *drawn)
                self._step(
                    f"data_{one.name}",
                    [*key, seen],
                    [(asr, subset)],
                    makes=lists(),
                    lists=lists,
                )
        for one in self.spec.finetune_sets:
            stats = [*run_asr, "--stage", 10, "--stop_stage", 10]
            stats += self._asr_data(one.name)
            self._step(
                f"stats_{one.name}",
                [*key, seen],
                [(asr, stats)],
                makes=[self.out / "asr" / f"stats_{one.name}" / STAMP],
                lists=partial(self.asr_lists, one.name),
            )

    def run(self, system: System, seed: int) -> None:
        """Pretrain, probe and fine-tune one system with one seed.

        Raises:
            DataError: A step failed; the message names its log.
        """
        config = self.configs.file(system, seed)
        key = [self.data_options, self.configs.text(system, seed)]
        name = f"{system.name}_seed{seed}"
        model: list[Path] = []
        if system.pretrain is not None:
            model = [self.model(system.name, seed)]
            self._pretrain(system, seed, name, key)
        if self.phones:
            out = self.phones_file(system, seed)
            measure = [sys.executable, "-m", "espnet2_birq.bin.phone_probe"]
            places = ["--model", *(model or [config]), "--out", out]
            self._step(
                f"phones_{name}",
                [*key, self.phones],
                [(Path.cwd(), [*measure, *places, *self.phones])],
                makes=[out],
                lists=lambda: model,
            )
        if self.spec.probe is not None:
            self._probe(system, seed, name, key, model)
        for one in self.spec.finetune_sets:
            self._finetune(system, seed, one, name, key, model)

    def _pretrain(self, system: System, seed: int, name: str, key: list) -> None:
        trunk = [self.model(system.after, seed)] if system.after else []
        if not all(one.is_file() for one in trunk):
            raise DataError(f"{name}: starts from {trunk[0]}, which is missing")
        train = self._run_sh("ssl", "--stage", 7, "--stop_stage", 7)
        train += ["--train_config", self.configs.file(system, seed), "--ssl_tag", name]
        self._step(
            f"ssl_{name}",
            key,
            [(self.spec.recipe / "ssl1", train)],
            makes=[self.model(system.name, seed)],
            lists=lambda: [*trunk, *self.ssl_lists()],
            folder=self.ssl_exp(system, seed),
        )

    def _probe(
        self, system: System, seed: int, name: str, key: list, model: list[Path]
    ) -> None:
        asr, out = self.spec.recipe / "asr1", self.probe_dir(system, seed)
        sets = [self.spec.train_set, *self.spec.tests]
        speech, *tests = (asr / "dump/raw" / one for one in sets)
        probe: list[str | Path] = [sys.executable, "-m", "espnet2_birq.bin.probe"]
        probe += (
            ["--model", *model]
            if model
            else ["--config", self.configs.file(system, seed)]
        )
        probe += ["--train", speech, "--test", *tests, "--out", out]
        probe += ["--seed", str(seed)]
        assert self.spec.probe is not None
        self._step(
            f"probe_{name}",
            [*key, self.spec.probe, self.spec.tests],
            [(asr, [*probe, *shlex.split(self.spec.probe)])],
            makes=[out / "probe.json"],
            lists=lambda: [*model, *self.lists(*sets)],
            folder=out,
        )

    def _finetune(
        self,
        system: System,
        seed: int,
        one: FinetuneSet,
        name: str,
        key: list,
        model: list[Path],
    ) -> None:
        asr_config = self.configs.finetune_file(system)
        assert asr_config is not None  # see read_spec()
        folder = self.asr_exp(system, seed, one.name)
        tune = self._run_sh("asr", "--asr_config", asr_config, "--asr_tag")
        tune += [f"{name}_{one.name}", "--asr_args", f"--seed {seed}"]
        tune += ["--ssl_model", model[0] if model else "none"]
        tune += self._asr_data(one.name)
        tune += ["--stage", 11, "--stop_stage", 13, "--greedy_ctc", "true"]
        tune += ["--inference_nj", 1]
        self._step(
            f"asr_{name}_{one.name}",
            [
                *key,
                one.name,
                self.spec.hours_of(one),
                self.configs.finetune_text(system),
            ],
            [(self.spec.recipe / "asr1", tune)],
            makes=[folder / "*" / x / "score_wer/hyp.trn" for x in self.spec.tests],
            lists=lambda: [*model, *self.asr_lists(one.name)],
            folder=folder,
        )

    def _asr_config(self) -> list:
        if self.spec.finetune_config is None:
            return []
        return ["--asr_config", self.spec.finetune_config]

    def _asr_data(self, name: str) -> list:
        stats = self.out / "asr" / f"stats_{name}"
        return ["--train_set", self.train_set(name), "--asr_stats_dir", stats]

    def _run_sh(self, kind: str, *options) -> list:
        expdir = ["--expdir", self.out / kind]
        if not self.uses_gpus:
            expdir += ["--num_threads", 1]
        return ["./run.sh", *self.data_options, *self.run_options, *expdir, *options]

    def _step(
        self,
        name: str,
        key,
        commands,
        makes: Iterable[str | Path],
        lists: Callable[[], list[Path]],
        folder: Path | None = None,
    ) -> None:
        """Run a step's commands unless it is done.

        Args:
            name: Name of the step.
            key: Dependencies of the step, as JSON.
            commands: Pairs of working directory and command.
            makes: Patterns of output files; each must match a file.
            lists: Function that returns the step's input lists and models; the step is
                redone if they change.
            folder: Output folder, removed before the step is redone.

        Raises:
            DataError: A command failed, or output is missing.
        """
        own = self.out / "steps" / name
        done, log = own / "done.json", own / "log"
        text = json.dumps(key)
        reason = None
        if (own / "key.json").is_file() and (own / "key.json").read_text() != text:
            reason = "was made with other settings"
        elif done.is_file():
            reason = _what_changed(own, makes, lists())
            if reason is None:
                say(f"{name}: already done")
                return
        if reason is not None:
            say(f"{name}: {reason}; made again")
            shutil.rmtree(own)
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
        own.mkdir(parents=True, exist_ok=True)
        (own / "key.json").write_text(text)
        with self._device() as environment:
            say(f"{name}: started, {log}")
            start = time.monotonic()
            for where, command in commands:
                with log.open("a") as stream:
                    code = subprocess.run(
                        [str(word) for word in command],
                        cwd=where,
                        stdin=subprocess.DEVNULL,
                        stdout=stream,
                        stderr=subprocess.STDOUT,
                        env={**os.environ, **environment},
                    ).returncode
                if code:
                    raise DataError(
                        f"{name}: failed with exit status {code}, see {log}"
                    )
        if lacking := _lacking(makes):
            raise DataError(f"{name}: ended without {lacking}, see {log}")
        seconds = round(time.monotonic() - start)
        write_stamp(own, lists())
        write_whole(done, json.dumps({"seconds": seconds}))
        say(f"{name}: done in {seconds} s")

    @contextmanager
    def _device(self) -> Iterator[dict[str, str]]:
        """Yield the environment of a step: a free GPU, or one CPU thread."""
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        environment = {"PYTHONPATH": path}
        if not self.uses_gpus:
            yield {**environment, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            return
        gpu = self.gpus.get()
        try:
            yield {**environment, "CUDA_VISIBLE_DEVICES": gpu}
        finally:
            self.gpus.put(gpu)


def _lacking(patterns: Iterable[str | Path]) -> str | None:
    """Return the first pattern without a matching file."""
    return next((str(x) for x in patterns if not glob.glob(str(x))), None)


def _what_changed(own: Path, makes: Iterable, lists: list[Path]) -> str | None:
    """Return why a finished step must be redone; None if not."""
    if lacking := _lacking(makes):
        return f"{lacking} is gone"
    try:
        check_stamp(own, lists)
    except DataError as error:
        return str(error)
    return None


def say(line: str) -> None:
    """Print a line of progress, with the time."""
    print(time.strftime("%H:%M:%S"), line, flush=True)
