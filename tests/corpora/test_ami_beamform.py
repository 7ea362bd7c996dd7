"""AMI's beamforming: a simulated array, and calls of BeamformIt."""

import os
import stat

import numpy as np
import pytest
import soundfile

from espnet2_birq.bin.beamform_ami import main
from espnet2_birq.corpora.ami.beamform import _estimate, _Windows

RATE = 16000
DELAYS = (0, 3, -5, 7, 2, -9, 4, -1)


def write_array(audio, meeting, seconds=21.3, noise=0.3, delays=DELAYS):
    """Write eight recordings of one source: delayed, each with its own noise."""
    rng = np.random.default_rng(0)
    count = int(seconds * RATE)
    source = rng.normal(0.0, 0.1, count + 100)
    # Speech has pauses, in which there is only noise.
    source *= np.repeat(rng.random(count // 4000 + 2) > 0.3, 4000)[: source.size]
    folder = audio / meeting / "audio"
    folder.mkdir(parents=True)
    for number, delay in enumerate(delays, 1):
        clean = source[50 - delay : 50 - delay + count]
        noisy = clean + rng.normal(0.0, noise * 0.1, count)
        soundfile.write(folder / f"{meeting}.Array1-0{number}.wav", noisy, RATE)
    return source


def snr(signal, source):
    """Return the SNR in dB, at the best delay of the source."""
    best = -np.inf
    for shift in range(-12, 13):
        clean = source[50 - shift : 50 - shift + len(signal)]
        gain = signal @ clean / (clean @ clean)
        error = signal - gain * clean
        best = max(best, 10 * np.log10(gain**2 * (clean @ clean) / (error @ error)))
    return best


def beamformed(audio, dest, meeting, *options):
    main(["--audio", str(audio), "--dest", str(dest), "--nj", "2", *options])
    return dest / meeting / f"{meeting}_MDM8.wav"


def test_gain_over_one_microphone(tmp_path, capsys):
    source = write_array(tmp_path / "amicorpus", "ES2011a")
    path = beamformed(tmp_path, tmp_path / "out", "ES2011a", "--method", "python")
    one, rate = soundfile.read(
        tmp_path / "amicorpus" / "ES2011a" / "audio" / "ES2011a.Array1-01.wav"
    )
    all_eight, same_rate = soundfile.read(path)
    assert rate == same_rate and one.shape == all_eight.shape
    # Independent noise of eight channels is reduced by 9.03 dB at best.
    gain = snr(all_eight, source) - snr(one, source)
    assert 8.5 < gain < 9.1
    assert "1 meetings by python, 0 were there already, 0 skipped" in (
        capsys.readouterr().out
    )
    assert (tmp_path / "out" / "method").read_text() == "python\n"


def test_without_delays_the_sum_is_the_mean(tmp_path):
    # Without noise and delays, the output equals the input, also at both ends.
    write_array(tmp_path, "ES2011a", seconds=2.03, noise=0.0, delays=(0,) * 8)
    path = beamformed(tmp_path, tmp_path / "out", "ES2011a", "--method", "python")
    one, _ = soundfile.read(tmp_path / "ES2011a" / "audio" / "ES2011a.Array1-01.wav")
    np.testing.assert_allclose(soundfile.read(path)[0], one, atol=2 / 32768)


def test_the_delay_is_kept_where_nothing_correlates(tmp_path):
    rng = np.random.default_rng(0)
    source, channels = rng.normal(0.0, 0.1, 5 * RATE + 3), []
    for number in range(2):
        samples = source[3 * number :][: 5 * RATE].copy()
        samples[2 * RATE : 5 * RATE // 2] = rng.normal(0.0, 0.1, RATE // 2)
        soundfile.write(tmp_path / f"{number}.wav", samples, RATE)
        channels.append(soundfile.SoundFile(tmp_path / f"{number}.wav"))
    delays, _ = _estimate(channels, _Windows(RATE // 2, 21, RATE // 1000), 5 * RATE)
    assert delays.tolist() == [[0] * 21, [-3] * 21]


def test_resumes_and_skips(tmp_path, capsys):
    for meeting in ("ES2011a", "ES2011b"):
        write_array(tmp_path / "amicorpus", meeting, seconds=1.0)
    out = tmp_path / "out"
    first = beamformed(tmp_path, out, "ES2011a", "--method", "python")
    made = first.stat().st_mtime_ns
    (out / "ES2011b" / "ES2011b_MDM8.wav").unlink()
    write_array(tmp_path / "amicorpus", "IS1003b", seconds=1.0)
    (tmp_path / "amicorpus/IS1003b/audio/IS1003b.Array1-07.wav").unlink()
    capsys.readouterr()
    beamformed(tmp_path, out, "ES2011a", "--method", "python")
    assert first.stat().st_mtime_ns == made
    printed = capsys.readouterr().out
    assert "1 meetings by python, 1 were there already, 1 skipped" in printed
    assert "IS1003b (7 of 8)" in printed
    assert not list(out.rglob(".*"))  # no partial output


def error_of(*options):
    with pytest.raises(SystemExit) as caught:
        main(list(map(str, options)))
    message = str(caught.value.code)
    assert message.startswith("error: ") and "\n" not in message
    return message


def test_errors_name_the_file(tmp_path):
    audio = tmp_path / "amicorpus"
    audio.mkdir()
    out = ("--dest", tmp_path / "out", "--method", "python")
    assert "no meeting with 8" in error_of("--audio", audio, *out)
    message = error_of("--audio", tmp_path / "nowhere", *out)
    assert "no such folder" in message and "--annotations-only" not in message
    write_array(audio, "ES2011a", seconds=1.0)
    bad = audio / "ES2011a" / "audio" / "ES2011a.Array1-05.wav"
    soundfile.write(bad, np.zeros(8000), 8000)
    message = error_of("--audio", audio, *out)
    assert f"{bad}: sample rate is 8000" in message and "--resample" not in message
    soundfile.write(bad, np.full(16000, np.nan), RATE, "FLOAT")
    assert f"{bad}: samples that are NaN" in error_of("--audio", audio, *out)
    soundfile.write(bad, np.zeros((16000, 2)), RATE)
    assert f"{bad}: has 2 channels" in error_of("--audio", audio, *out)
    bad.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert f"{bad}: a git-LFS pointer" in error_of("--audio", audio, *out)
    assert not list((tmp_path / "out").rglob("*.wav"))


def test_a_short_channel_does_not_cut_the_others(tmp_path):
    write_array(tmp_path, "ES2011a", seconds=3.0)
    short = tmp_path / "ES2011a" / "audio" / "ES2011a.Array1-06.wav"
    samples, _ = soundfile.read(short)
    out = ("--audio", tmp_path, "--dest", tmp_path / "out", "--method", "python")
    soundfile.write(short, samples[: int(1.9 * RATE)], RATE)
    message = error_of(*out)
    assert f"{short}: has 1.9 s, another recording of its array 3.0 s" in message
    assert not list((tmp_path / "out").rglob("*.wav*"))
    # By less than a second, all are cut to the same length.
    soundfile.write(short, samples[: int(2.1 * RATE)], RATE)
    main(list(map(str, out)))
    made = tmp_path / "out" / "ES2011a" / "ES2011a_MDM8.wav"
    assert soundfile.info(made).frames == int(2.1 * RATE)


# A stand-in that shows how the program is called: it copies the first channel.
BEAMFORMIT = """\
#!/bin/sh
while [ $# -gt 0 ]; do
    case "$1" in
        -s) show=$2 ;; -c) channels=$2 ;; --config_file) config=$2 ;;
        --source_dir) from=$2 ;; --result_dir) to=$2 ;;
    esac
    shift 2
done
grep -q "^scroll_size = 250$" "$config" || exit 3
set -- $(cat "$channels")
[ "$1" = "$show" ] && [ $# = 9 ] || exit 4
cp "$from/$2" "$to/$show.wav"
"""


def test_beamformit_is_used_when_it_is_there(tmp_path, monkeypatch, capsys):
    program = tmp_path / "bin" / "BeamformIt"
    program.parent.mkdir()
    program.write_text(BEAMFORMIT)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    write_array(tmp_path / "amicorpus", "ES2011a", seconds=1.0)
    out = tmp_path / "out"
    path = beamformed(tmp_path, out, "ES2011a")
    source = tmp_path / "amicorpus" / "ES2011a" / "audio" / "ES2011a.Array1-01.wav"
    assert path.read_bytes() == source.read_bytes()
    assert "1 meetings by beamformit" in capsys.readouterr().out
    # The two methods do not mix.
    options = ("--audio", tmp_path, "--dest", out, "--method", "python")
    assert "was made by beamformit" in error_of(*options)
    # Its input is checked as for the other method.
    path.unlink()
    third = source.with_name("ES2011a.Array1-03.wav")
    content = third.read_bytes()
    soundfile.write(third, np.zeros((16000, 2)), RATE)
    assert f"{third}: has 2 channels" in error_of("--audio", tmp_path, "--dest", out)
    third.write_bytes(content)
    # Its failure is an error and leaves a log.
    program.write_text("#!/bin/sh\necho oops; exit 7\n")
    message = error_of("--audio", tmp_path, "--dest", out)
    assert "failed with status 7" in message
    assert (out / "ES2011a" / "ES2011a.beamformit.log").read_text() == "oops\n"
    assert not path.exists()
