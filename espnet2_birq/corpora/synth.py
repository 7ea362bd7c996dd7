"""Synthetic speech by eSpeak NG, for a demo corpus that needs no download.

The library comes in the wheel `espeakng-loader` (the extra `demo`) and is called through
ctypes. An utterance depends only on its own seed, not on earlier utterances or the
number of processes.
"""

import _ctypes
import ctypes
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from espnet2_birq.errors import DataError

SAMPLE_RATE = 16000

# Constants of eSpeak NG's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_POS_CHARACTER = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)

# At eSpeak's default of 100 some variants are clipped inside the library.
_SAFE_VOLUME = 40

# Keys are part of speaker names.
ACCENTS = {"us": "en-us", "gb": "en", "rp": "en-gb-x-rp"}

# Not used: robotic, whispering, creaky and echoing voices and an unnaturally high child;
# names with a space; and variants with a `breath` line (f2, f3, f5, victor, ...), because
# eSpeak makes breath from uninitialised memory, which differs between runs. Near-copies
# (such as linda and belinda) are in the same set.
_TRAIN_VARIANTS = """
    f1 f4 Annie aunty shelby steph steph2 steph3 m1 m5 m7 m8 Alex Andy AnxiousAndy Diogo
    Gene Gene2 Henrique Hugo Jacky Lee Mario Michael Nguyen adam benjamin boris
    david ed edward edward2 grandpa iven iven3 john klatt3 klatt4 klatt6 michel miguel
    mike2 norbert pablo travis
"""
_VALID_VARIANTS = "anika grandma ian kaukovalta m2 max"
_TEST_VARIANTS = """
    Andrea belinda linda m3 m4 m6 antonio Denis marcelo paul pedro quincy rob robert
"""


@dataclass(frozen=True)
class Voice:
    """A synthetic speaker.

    Attributes:
        variant: Name of eSpeak's voice variant.
        accent: Key of ACCENTS.
    """

    variant: str
    accent: str

    @property
    def speaker(self) -> str:
        """Speaker name, without "-" and "_", where sclite would cut it off."""
        return f"{self.accent}{self.variant[0].upper()}{self.variant[1:]}"

    @property
    def espeak_name(self) -> str:
        """Voice name for eSpeak."""
        return f"{ACCENTS[self.accent]}+{self.variant}"


def _voices(variants: str) -> tuple[Voice, ...]:
    accents = list(ACCENTS)
    return tuple(
        Voice(variant, accents[i % len(accents)])
        for i, variant in enumerate(variants.split())
    )


TRAIN_VOICES = _voices(_TRAIN_VARIANTS)
VALID_VOICES = _voices(_VALID_VARIANTS)
TEST_VOICES = _voices(_TEST_VARIANTS)


@dataclass(frozen=True)
class Job:
    """Specification of an utterance to synthesize.

    Attributes:
        text: Text to speak.
        voice: Synthetic speaker.
        seed: Seed of speaking style and noise.
    """

    text: str
    voice: Voice
    seed: tuple[int, ...]


def check_available() -> None:
    """Check that eSpeak NG and the voices are installed.

    Raises:
        DataError: The wheel is not installed, or lacks one of the voices.
    """
    if importlib.util.find_spec("espeakng_loader") is None:
        raise DataError("synthetic speech needs eSpeak NG: pip install espeakng-loader")
    import espeakng_loader

    folder = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    for voice in TRAIN_VOICES + VALID_VOICES + TEST_VOICES:
        # For an unknown variant, eSpeak silently uses its default voice.
        if not (folder / voice.variant).is_file():
            raise DataError(
                f"{folder}: voice variant {voice.variant} is missing; "
                "pip install --force-reinstall espeakng-loader"
            )


def speak(
    text: str, espeak_name: str, rate: int, pitch: int, pitch_range: int
) -> tuple[np.ndarray, int]:
    """Speak a text with eSpeak NG.

    Args:
        text: English text.
        espeak_name: eSpeak's voice name, for example "en-us+m2".
        rate: Speaking rate in words per minute.
        pitch: Base pitch from 0 to 99; 50 is the voice's default.
        pitch_range: Pitch variation from 0 to 99; 0 is monotone, 50 is normal.

    Returns:
        Samples in [-1, 1], shape (samples,), and their sample rate in Hz.

    Raises:
        DataError: eSpeak rejects the voice or the text.
    """
    import espeakng_loader

    chunks = []

    def gather(samples, count, events):
        if samples and count:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = _Callback(gather)
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_uint,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_uint,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    sample_rate = library.espeak_Initialize(
        _AUDIO_OUTPUT_SYNCHRONOUS,
        0,
        espeakng_loader.get_data_path().encode(),
        _INITIALIZE_DONT_EXIT,
    )
    if sample_rate <= 0:
        raise DataError(
            "eSpeak NG does not start; pip install --force-reinstall espeakng-loader"
        )
    # The Klatt synthesiser draws its noise with the C library's rand().
    ctypes.CDLL(None).srand(1)
    library.espeak_SetSynthCallback(callback)
    failed = library.espeak_SetVoiceByName(espeak_name.encode())
    settings = {
        _RATE: rate,
        _VOLUME: _SAFE_VOLUME,
        _PITCH: pitch,
        _RANGE: pitch_range,
    }
    for parameter, value in settings.items():
        failed = failed or library.espeak_SetParameter(parameter, value, 0)
    data = text.encode()
    failed = failed or library.espeak_Synth(
        data, len(data) + 1, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None
    )
    library.espeak_Terminate()
    # eSpeak keeps oscillator states in static variables. Only reloading the library
    # resets them.
    _ctypes.dlclose(library._handle)
    if failed or not chunks:
        raise DataError(
            f"eSpeak NG: voice {espeak_name} does not say {text!r}; "
            "pip install --force-reinstall espeakng-loader"
        )
    return np.concatenate(chunks) / np.float32(32768), sample_rate


def synthesize(job: Job) -> np.ndarray:
    """Synthesize an utterance with random speaking style, level, noise and silence.

    Args:
        job: Specification of the utterance.

    Returns:
        int16 samples at SAMPLE_RATE, shape (samples,).

    Raises:
        DataError: eSpeak rejects the voice or the text.
    """
    rng = np.random.default_rng(job.seed)
    speech, sample_rate = speak(
        # eSpeak could read words in capitals as abbreviations.
        job.text.lower(),
        job.voice.espeak_name,
        rate=int(rng.integers(130, 191)),
        pitch=int(rng.integers(40, 61)),
        pitch_range=int(rng.integers(35, 66)),
    )
    speech = soxr.resample(_trim(speech, job.text), sample_rate, SAMPLE_RATE)

    level = 10 ** (rng.uniform(-30, -22) / 20)
    speech *= level / _rms(speech)
    margins = (rng.uniform(0.05, 0.2, 2) * SAMPLE_RATE).astype(int)
    signal = np.pad(speech, margins)

    noise = rng.standard_normal(len(signal))
    # 0 is white noise; towards 1, high frequencies get weaker.
    darkness = rng.choice([0.0, rng.uniform(0.5, 0.95)])
    turn = np.exp(-1j * np.linspace(0, np.pi, len(noise) // 2 + 1))
    spectrum = np.fft.rfft(noise) / (1 - darkness * turn)
    noise = np.fft.irfft(spectrum, len(noise))
    snr = rng.uniform(25, 45)
    signal = signal + noise * (level / _rms(noise) * 10 ** (-snr / 20))

    # Avoid clipping: some voices have high peaks.
    signal *= min(1.0, 0.9 / np.abs(signal).max())
    return np.round(signal * 32767).astype(np.int16)


def _trim(speech: np.ndarray, text: str) -> np.ndarray:
    if not np.abs(speech).max() > 0:  # silence would cause a division by 0 later
        raise DataError(
            f"eSpeak NG: only silence for {text!r}; "
            "pip install --force-reinstall espeakng-loader"
        )
    loud = np.flatnonzero(np.abs(speech) > 0.01 * np.abs(speech).max())
    return speech[loud[0] : loud[-1] + 1]


def _rms(signal: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(signal, dtype=np.float64))))
