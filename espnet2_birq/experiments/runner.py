"""Run the steps of a matrix, i.e. stages of the recipes, each once."""

import glob
import os
import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from espnet2_birq.datadir.locking import locked
from espnet2_birq.datadir.stamp import STAMP, sources
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.experiments.configs import Configs
from espnet2_birq.experiments.spec import FinetuneSet, Spec, System, split_options
from espnet2_birq.experiments.steps import (
    Record,
    Step,
    files_in_config,
    files_in_options,
    lacking,
    last_setting,
)

TRAIN_VALID = ("train", "valid")
# Options of the recipes that change results, and where they belong in a matrix.
IN_YAML = {
    **dict.fromkeys(("train_config", "ssl_args"), "pretrain"),
    **dict.fromkeys(("asr_config", "asr_args"), "finetune"),
    **dict.fromkeys(("feats_normalize", "speech_fold_length"), "pretrain"),
}
STAGES = ("stage", "stop_stage", "skip_")  # names of options that select stages


class Runner:
    """Runs unfinished steps in parallel.

    A step has a folder OUT/steps/<name> with its log and its record; see Record.
    Interrupted steps are rerun, and ESPnet resumes training.

    Args:
        spec: The matrix.
        out: Output folder.
        data_options: Data options of both run.sh.
        run_options: Execution options of both run.sh, e.g. --ngpu 1; none of IN_YAML.
        gpus: CUDA devices, each for one step at a time; empty: one CPU thread per step.
        phones: Options of espnet2_birq.bin.phone_probe, including data;
            empty: do not run it.
        report_only: Whether nothing is run. Results are then compared with the data options
            of the last run, unless some are given.

    Raises:
        ConfigError: Options belong elsewhere.
    """

    def __init__(
        self,
        spec: Spec,
        out: Path,
        data_options: str = "",
        run_options: str = "",
        gpus: list[str] | None = None,
        phones: str = "",
        report_only: bool = False,
    ):
        self.spec = spec
        self.out = out.resolve()
        self.configs = Configs(spec, self.out)
        self.data_options = split_options("--data_options", data_options)
        ngpu = ["--ngpu", str(int(bool(gpus)))]
        given = split_options("--run_options", run_options)
        for word in given:
            option = word.removeprefix("--").replace("-", "_")
            if word.startswith("--") and option.startswith(STAGES):
                raise ConfigError(
                    f"--run_options: {word}: the matrix runs all stages that are due; "
                    "leave it out"
                )
            if word.startswith("--") and option in IN_YAML:
                raise ConfigError(
                    f"--run_options: {word} changes results, which are compared by the "
                    f"matrix's YAML file: change it there, under {IN_YAML[option]}:"
                )
        # The last of equal options wins, i.e. the user's.
        self.run_options = [*ngpu, *([] if gpus else ["--num_threads", "1"]), *given]
        self._run_key = given or ngpu
        self.phones = split_options("--phones", phones)
        self._data_key: Any = self.data_options
        if report_only and not data_options:
            self._data_key = last_setting(self.out, "data_ssl", 0)
        # Without options of phone_probe, its earlier results are only reported.
        self._phones_key = self.phones or last_setting(self.out, "phones_*", -1)
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
        """Return the lists used in fine-tuning on a set."""
        made_from = sources(self.out / "asr" / f"stats_{name}")
        lists = self.lists(self.train_set(name))
        return [*lists, *(self.spec.recipe / "asr1" / x for x in made_from)]

    # ------------------------------------------------------------------- steps
    def prepare(self) -> None:
        """Prepare data and statistics, once for all systems."""
        self._prepare_ssl()
        sets = self.spec.finetune_sets
        if not sets and self.spec.probe is None:
            return
        self._prepare_asr()
        hours: dict[str, float] = {}  # of the sets drawn so far, and of their rests
        for one in sets:
            if one.hours is not None:
                self._draw_subset(one, one.hours, hours)
        for one in sets:
            self._prepare_statistics(one, hours)

    def _prepare_ssl(self) -> None:
        conf = self.spec.pretrain
        run_ssl = self._run_sh("ssl", "--train_config", conf, "--stop_stage", 6)
        self._prepare(
            "data_ssl",
            [*self._settings_of_data(), conf.read_text()],
            [(self.spec.recipe / "ssl1", run_ssl)],
            makes=[f"{self.out}/ssl/ssl_stats_raw/{x}/{STAMP}" for x in TRAIN_VALID],
            lists=self.ssl_lists,
        )

    def _prepare_asr(self) -> None:
        lists = partial(self.lists, self.spec.train_set, *self.spec.tests)
        self._prepare(
            "data_asr",
            self._settings_of_data(),
            [(self.spec.recipe / "asr1", [*self._run_asr(), "--stop_stage", 5])],
            makes=lists(),
            lists=lists,
        )

    def _draw_subset(
        self, one: FinetuneSet, number: float, hours: dict[str, float]
    ) -> None:
        """Draw a set from the training set, and write its rest if that is a set, too.

        Args:
            one: The set.
            number: Its hours.
            hours: Hours by set, to which those of the sets made here are added.
        """
        rests = (x for x in self.spec.finetune_sets if x.rest_of == one.name)
        rest = next(rests, None)  # at most one, see read_spec()
        made = [one] if rest is None else [one, rest]
        hours.update((x.name, number) for x in made)
        subset = [sys.executable, "-m", "espnet2_birq.bin.subset_data"]
        subset += ["--hours", str(number)]
        if rest is not None:
            subset += ["--rest", f"dump/raw/{self.train_set(rest.name)}"]
        subset.append(f"dump/raw/{self.spec.train_set}")
        subset.append(f"dump/raw/{self.train_set(one.name)}")
        names = [self.train_set(x.name) for x in made]
        lists = partial(self.lists, self.spec.train_set, *names)
        self._prepare(
            f"data_{one.name}",
            [*self._settings_of_data(), dict(hours)],
            [(self.spec.recipe / "asr1", subset)],
            makes=lists(),
            lists=lists,
        )

    def _prepare_statistics(self, one: FinetuneSet, hours: dict[str, float]) -> None:
        stats = [*self._run_asr(), "--stage", 10, "--stop_stage", 10]
        stats += self._asr_data(one.name)
        self._prepare(
            f"stats_{one.name}",
            [*self._settings_of_data(), dict(hours)],
            [(self.spec.recipe / "asr1", stats)],
            makes=[self.out / "asr" / f"stats_{one.name}" / STAMP],
            lists=partial(self.asr_lists, one.name),
        )

    def _settings_of_data(self) -> list:
        return [self.data_options, self._run_key, str(self.spec.recipe)]

    def _prepare(
        self, name: str, key: list, commands: list, makes: list, lists
    ) -> None:
        self._run(Step(name, key, commands, makes, lists, prepares=True))

    def run(self, system: System, seed: int) -> None:
        """Pretrain, probe and fine-tune one system with one seed.

        Raises:
            DataError: A step failed; the message names its log.
        """
        for step in self.steps(system, seed):
            self._run(step, seed)

    def steps(self, system: System, seed: int) -> list[Step]:
        """Return all steps of one system and seed in their order."""
        steps = [self.pretraining(system, seed)] if system.pretrain is not None else []
        if self.phones:
            steps.append(self.phone_probe(system, seed))
        if self.spec.probe is not None:
            steps.append(self.probe(system, seed))
        sets = self.spec.finetune_sets
        return steps + [self.finetuning(system, seed, one) for one in sets]

    def pretraining(self, system: System, seed: int) -> Step:
        """Return the step that pretrains a system."""
        name = f"{system.name}_seed{seed}"
        text, ssl = self.configs.text(system, seed), self.spec.recipe / "ssl1"
        train = self._run_sh("ssl", "--stage", 7, "--stop_stage", 7)
        train += ["--train_config", self.configs.file(system, seed), "--ssl_tag", name]
        trunk, before = [], None
        if system.after is not None:
            trunk = [self.model(system.after, seed)]
            before = self.pretraining(self.spec.system(system.after), seed)
        return Step(
            f"ssl_{name}",
            self._key(system, seed),
            [(ssl, train)],
            makes=[self.model(system.name, seed)],
            lists=lambda: [*trunk, *self.ssl_lists()],
            named=lambda: files_in_config(yaml.safe_load(text), ssl),
            folder=self.ssl_exp(system, seed),
            before=before,
        )

    def phone_probe(self, system: System, seed: int) -> Step:
        """Return the step that runs phone_probe."""
        out = self.phones_file(system, seed)
        model = self._pretrained(system, seed)
        measure: list[str | Path] = [sys.executable, "-m"]
        measure += ["espnet2_birq.bin.phone_probe", "--out", out, "--model"]
        measure += model or [self.configs.file(system, seed)]
        return Step(
            f"phones_{system.name}_seed{seed}",
            [*self._key(system, seed), self._phones_key],
            [(Path.cwd(), [*measure, *self.phones])],
            makes=[out],
            lists=lambda: model,
            named=lambda: files_in_options(self.phones, Path.cwd()),
            before=self._before(system, seed),
        )

    def probe(self, system: System, seed: int) -> Step:
        """Return the step that probes a frozen encoder."""
        asr, out = self.spec.recipe / "asr1", self.probe_dir(system, seed)
        assert self.spec.probe is not None
        options = split_options("probe", self.spec.probe)
        sets = [] if "--halves" in options else [self.spec.train_set]
        speech = [word for one in sets for word in ("--train", asr / "dump/raw" / one)]
        tests = [asr / "dump/raw" / one for one in self.spec.tests]
        model = self._pretrained(system, seed)
        probe: list[str | Path] = [sys.executable, "-m", "espnet2_birq.bin.probe"]
        probe += ["--model", *(model or [self.configs.file(system, seed)])]
        probe += [*speech, "--test", *tests, "--out", out, "--seed", str(seed)]
        return Step(
            f"probe_{system.name}_seed{seed}",
            [*self._key(system, seed), self.spec.probe, self.spec.tests],
            [(asr, [*probe, *options])],
            makes=[out / "probe.json"],
            lists=lambda: [*model, *self.lists(*sets, *self.spec.tests)],
            folder=out,
            before=self._before(system, seed),
        )

    def finetuning(self, system: System, seed: int, one: FinetuneSet) -> Step:
        """Return the step that fine-tunes a system on a set, decodes and scores."""
        name = f"{system.name}_seed{seed}_{one.name}"
        folder = self.asr_exp(system, seed, one.name)
        model = self._pretrained(system, seed)
        tune = self._run_sh("asr", "--asr_config", self.configs.finetune_file(system))
        tune += ["--asr_tag", name, "--asr_args", f"--seed {seed}"]
        tune += ["--ssl_model", model[0] if model else "none"]
        tune += self._asr_data(one.name)
        tune += ["--stage", 11, "--stop_stage", 13, "--greedy_ctc", "true"]
        tune += ["--inference_nj", 1]
        text = self.configs.finetune_text(system)
        asr = self.spec.recipe / "asr1"
        return Step(
            f"asr_{name}",
            [*self._key(system, seed), one.name, self.spec.hours_of(one), text],
            [(asr, tune)],
            makes=[
                f"{glob.escape(str(folder))}/*/{x}/score_wer/hyp.trn"
                for x in self.spec.tests
            ],
            lists=lambda: [*model, *self.asr_lists(one.name)],
            named=lambda: files_in_config(yaml.safe_load(text), asr),
            folder=folder,
            before=self._before(system, seed),
            tests=lambda: self.lists(*self.spec.tests),
        )

    def _outdate_after(self, step: Step, seed: int) -> None:
        """Outdate what was made from the earlier output of a step."""
        for system in self.spec.systems:
            steps = [*self.steps(system, seed), self.phone_probe(system, seed)]
            for other in steps:
                if other.starts_from(step.name):
                    Record(self.out, other).outdate()

    def _key(self, system: System, seed: int) -> list:
        return [self._data_key, self.configs.text(system, seed)]

    def _before(self, system: System, seed: int) -> Step | None:
        return self.pretraining(system, seed) if system.pretrain is not None else None

    def _pretrained(self, system: System, seed: int) -> list[Path]:
        return [self.model(system.name, seed)] if system.pretrain is not None else []

    def _run_asr(self) -> list:
        """Return the command of asr1's run.sh that prepares data."""
        conf = self.spec.finetune_config
        config = [] if conf is None else ["--asr_config", conf]
        return self._run_sh("asr", *config, "--ssl_model", "none")

    def _asr_data(self, name: str) -> list:
        stats = self.out / "asr" / f"stats_{name}"
        return ["--train_set", self.train_set(name), "--asr_stats_dir", stats]

    def _run_sh(self, kind: str, *options) -> list:
        expdir = ["--expdir", self.out / kind]
        return ["./run.sh", *self.data_options, *self.run_options, *expdir, *options]

    def _run(self, step: Step, seed: int | None = None) -> None:
        """Run a step's commands unless it is done, or wait if another matrix runs them.

        Args:
            step: The step.
            seed: Seed of the steps that may have been made from this one's output.

        Raises:
            DataError: A command failed, or output is missing.
        """

        def waiting():
            say(f"{step.name}: another matrix is at it, waiting")

        with locked(step.lock(self.out), waiting) as descriptor:
            self._run_alone(step, seed, descriptor)

    def _run_alone(self, step: Step, seed: int | None, lock: int) -> None:
        record = Record(self.out, step)
        log, name = record.log, step.name
        if step.before is not None:
            for model in filter(lambda x: not Path(x).is_file(), step.before.makes):
                raise DataError(f"{name}: starts from {model}, which is missing")
        reason, missing = record.why_redo(), record.lacks()
        if reason is None and record.has_ended and missing is None:
            record.restore()
            say(f"{name}: already done")
            return
        if seed is not None:
            self._outdate_after(step, seed)
        if reason is not None:
            say(f"{name}: {reason}; made again")
            record.remove()
        elif missing is not None:  # e.g. a decoding that was removed
            say(f"{name}: {missing} is missing; made from what there is")
            record.reopen()
        record.start()
        with self._device() as environment:
            say(f"{name}: started, {log}")
            start = time.monotonic()
            for where, command in step.commands:
                with log.open("a") as stream:
                    code = subprocess.run(
                        [str(word) for word in command],
                        cwd=where,
                        stdin=subprocess.DEVNULL,
                        stdout=stream,
                        stderr=subprocess.STDOUT,
                        env={**os.environ, **environment},
                        pass_fds=[lock],
                    ).returncode
                if code:
                    raise DataError(
                        f"{name}: failed with exit status {code}, see {log}"
                    )
        if missing := lacking(step.makes):
            raise DataError(f"{name}: ended without {missing}, see {log}")
        seconds = round(time.monotonic() - start)
        record.finish(seconds)
        say(f"{name}: done in {seconds} s")

    @contextmanager
    def _device(self) -> Iterator[dict[str, str]]:
        """Yield the environment of a step: a free GPU, or one CPU thread."""
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        environment = {"PYTHONPATH": path}
        if not self.uses_gpus:
            # MKL follows it. If MKL's own were set, --num_threads would have no effect.
            yield {**environment, "OMP_NUM_THREADS": "1"}
            return
        gpu = self.gpus.get()
        try:
            yield {**environment, "CUDA_VISIBLE_DEVICES": gpu}
        finally:
            self.gpus.put(gpu)


def say(line: str) -> None:
    """Print a line of progress, with the time."""
    print(time.strftime("%H:%M:%S"), line, flush=True)
