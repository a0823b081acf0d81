"""The corpora this package knows by name: one entry each, with its naming scheme and its published facts.

A pattern matches a file's path inside the corpus folder, without the suffix and from any folder boundary on. Its named
groups become the utterance's fields: ``label`` (a code of ``labels``), ``speaker``, ``sex``, ``text``, ``session``,
``split``; others only serve ``name``.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from sslfeat.labels import harmonise

SEXES = {"f": "female", "female": "female", "w": "female", "m": "male", "male": "male"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """One corpus: how its files are named, and what was published of it.

    Parameters
    ----------
    key : str
        What the user types.
    title : str
        The full name.
    pattern : str
        Regular expression of the names, see above.
    examples : tuple of str
        Names as they come, for messages.
    labels : mapping of str to (str, str)
        Code in the name -> the corpus's own word and the shared noun.
    counts : mapping of str to int
        Code -> published number of files; may be empty where only ``num_files`` is known.
    num_files, num_speakers : int
        Published totals.
    hours : float
        Total duration.
    languages : tuple of str
        Languages spoken, in English.
    licence, citation, url : str
        Terms, what to cite, and where to get it.
    sexes : mapping of str to str
        Speaker as named -> female or male, where the names don't say it by a group ``sex``.
    name : str
        What an utterance is called in its id, made from the groups and ``stem``.
    names : callable or None
        Returns the published stems, where they are known one by one; a file that fits the pattern and isn't among
        them is not read.
    skipped_folders : tuple of str
        Folders that hold audio which is no utterance.
    variant_of : str
        The corpus this is another reading of: ids and speakers carry that key, and it is never guessed.
    remarks : tuple of str
        What trips users.
    """

    key: str
    title: str
    pattern: str
    examples: tuple[str, ...]
    labels: Mapping[str, tuple[str, str]]
    counts: Mapping[str, int]
    num_files: int
    num_speakers: int
    hours: float
    languages: tuple[str, ...]
    licence: str
    citation: str
    url: str
    sexes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    name: str = "{stem}"
    names: Callable[[], Iterable[str]] | None = None
    skipped_folders: tuple[str, ...] = ()
    variant_of: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """The key that ids and speakers carry."""
        return self.variant_of or self.key


def _words(**codes: str) -> dict[str, tuple[str, str]]:
    """Return code -> (the corpus's word, the shared noun)."""
    return {code: (word, harmonise(word)) for code, word in codes.items()}


def _numbered(*words: str) -> dict[str, tuple[str, str]]:
    """Return the same for codes 01, 02, ..."""
    return _words(**{f"{number:02}": word for number, word in enumerate(words, 1)})


def _odd_male(count: int) -> dict[str, str]:
    return {f"{number:02}": "male" if number % 2 else "female" for number in range(1, count + 1)}


# The 535 utterances of Emo-DB 1.x, those that more than 80 % of the listeners recognised and 60 % found natural
# (Burkhardt et al. 2005): speaker and text, then emotion and version of each. Release 2.0 adds the other 281.
_EMODB_GOLD = """
        03a01=Fa.Nc.Wa 03a02=Fc.Nc.Ta.Wb.Wc 03a04=Ad.Fd.Lc.Nc.Ta.Wc 03a05=Aa.Fc.Nd.Tc.Wa.Wb
        03a07=Fa.Fb.La.Nc.Wc 03b01=Fa.Lb.Nb.Td.Wa.Wc 03b02=Aa.La.Na.Tb.Wb 03b03=Nb.Tc.Wc 03b09=La.Nc.Tc.Wa
        03b10=Ab.Ec.Na.Nc.Wb.Wc 08a01=Ab.Fd.Lc.Na.Wa.Wc 08a02=Ab.Ac.Fe.La.Na.Tb.Wc 08a04=Ff.La.Nc.Tb.Wc
        08a05=Fe.Lc.Nb.Ta.Wa 08a07=Fd.La.Na.Ta.Tb.Wc 08b01=Aa.Fd.Fe.Lb.Na.Wa 08b02=Ff.La.Nb.Tc.Wd
        08b03=Fe.Lc.Nb.Tc.Wd 08b09=Ab.Fd.Lc.Nb.Tb.Wa.Wc 08b10=Aa.Fd.La.Nc.Tc.Wa 09a01=Ea.Fa.Nb.Wb
        09a02=Ea.Eb.La.Wb 09a04=Fd.La.Nb.Wa 09a05=Ed.Lc.Nb.Tb.Wb.Wc 09a07=Eb.Na.Ta.Wb.Wd 09b01=Ea.Na.Wb
        09b02=Na.Tb.Wc.Wd 09b03=Ed.Fa.Fd.Lb.Nb.Ta.Wb 09b09=Ea.Nd.Wa 09b10=Aa.Nd.Wa 10a01=Ac.Nb.Wa
        10a02=Ab.Fa.Lb.Na.Wa 10a04=Fd.Nb.Wa.Wb 10a05=Aa.Ld.Tb.Wb 10a07=Aa.Ad.La.Ta.Wb 10b01=Aa.Ea.Fa.Lb
        10b02=Aa.La.Na.Wb 10b03=La.Tb.Wb 10b09=Ad.Lb.Wb 10b10=Fc.Lc.Wa 11a01=Aa.Ab.Ld.Nd.Wc
        11a02=Ec.Fb.Ld.Nc.Tc.Wc 11a04=Ac.Fd.Nd.Wc 11a05=Ad.Fb.Fc.Lc.Na.Td.Wd 11a07=Ac.Ld.Ta.Wc
        11b01=Ab.Eb.Fc.Lb.Nc.Wd 11b02=Ab.Fd.Na.Td.Wb 11b03=Fc.Lc.Nb.Td.Wa.Wb 11b09=Ad.Fd.Ld.Na.Td.Wa
        11b10=Ad.Ae.Ld.Nc.Td.Wa 12a01=Fb.Lb.Nb.Wc 12a02=Ac.Ec.Nb.Wa.Wc 12a04=Wc 12a05=Ab.Lb.Nd.Ta.Wb
        12a07=Ac.La.Wa 12b01=Ta.Wa 12b02=Ad.Ea.Fb.Na.Wa.Wb.Wd 12b03=La.Ta 12b09=Ac.Td.Wc 12b10=Ac.Ld.Wa
        13a01=Ac.Ea.Ec.Fd.Lb.Nb.Wb 13a02=Ad.Ec.Fa.Lc.Nc.Ta.Wa 13a04=Ac.Fc.Lb.Ta.Wc
        13a05=Aa.Ea.Lc.Nb.Tc.Wa.Wc 13a07=Fd.Lb.Na.Tc.Wb 13b01=Ab.Ec.Fc.Ld.Nc.Wa 13b02=Fb.Lc.Nb.Wa
        13b03=Ac.Ed.Fd.Lb.Na.Td.Wc 13b09=Ab.Ec.Fb.Fc.La.Na.Wa 13b10=Ec.Fa.La.Nc.Wa.Wc
        14a01=Aa.Ac.Ea.Na.Wa.Wc 14a02=Ab.Ea.Fd.La.Nc.Tb.Wa.Wc 14a04=Aa.Ed.Lb.Tb.Tc.Wb.Wc
        14a05=Aa.Ac.Fa.Fb.Lb.Na.Ta.Tc.Wa.Wb 14a07=Aa.Eb.Fd.Lc.Ld.Na.Tc.Wc 14b01=Ac.Eb.Fa.Fc.Na.Wc
        14b02=Aa.Fb.Na.Tc.Wb.Wd 14b03=Ad.Ed.Lb.Ta.Wb 14b09=Ac.Ea.Fc.Lb.Td.Wa.Wc 14b10=Ad.Eb.Lb.Nb.Tc.Wc
        15a01=Ea.Fb.La.Nb.Wa 15a02=Ac.Ea.La.Na.Ta.Wb.Wd 15a04=Ab.Ac.Fd.Nc.Wa.Wb 15a05=Eb.Fb.Lb.Na.Wa
        15a07=Ac.Eb.Fa.Fb.Ld.Nc 15b01=Ec.Lb.Na.Wc 15b02=Aa.Lb.Nd.Tc.Wa.Wc 15b03=Aa.Lc.Nb.Tc.Wa.Wb
        15b09=Ac.Fa.La.Nb.Ta.Wb 15b10=Ac.Lc.Nb.Nc.Wa 16a01=Ec.Fc.Lb.Nc.Tb.Wb 16a02=Ea.Ec.Lb.Nb.Tc.Wb
        16a04=Ab.Ea.Fa.La.Lc.Nc.Tc.Wb.Wc 16a05=Ab.Ea.Fc.La.Tb.Wb.Wc 16a07=Ea.Fa.Fb.La.Lb.Nb.Td.Wa
        16b01=Aa.Eb.Fa.La.Lc.Tb.Wa.Wb 16b02=Aa.Eb.Fd.Lb.Wb 16b03=Ad.Ea.Fa.Fd.La.Nb.Ta.Wb
        16b09=Ab.Eb.Fb.La.Lb.Wb 16b10=Aa.Eb.Fb.Lb.Tb.Td.Wa.Wb
    """


def _emodb_names() -> Iterable[str]:
    for group in _EMODB_GOLD.split():
        stem, endings = group.split("=")
        yield from (stem + ending for ending in endings.split("."))


def _ravdess_names(channel: str, emotions: Iterable[str], actors: Iterable[int]) -> Iterable[str]:
    for actor, emotion in itertools.product(actors, emotions):
        for intensity, statement, repetition in itertools.product(("01", "02"), repeat=3):
            if (emotion, intensity) != ("01", "02"):  # there is no strong neutral
                yield f"03-{channel}-{emotion}-{intensity}-{statement}-{repetition}-{actor:02}"


def _savee_names() -> Iterable[str]:
    for speaker, (code, count) in itertools.product(_SAVEE_MEN, _SAVEE_SENTENCES.items()):
        yield from (f"{speaker}_{code}{number:02}" for number in range(1, count + 1))


_SAVEE_MEN = ("DC", "JE", "JK", "KL")
_SAVEE_SENTENCES = {"a": 15, "d": 15, "f": 15, "h": 15, "n": 30, "sa": 15, "su": 15}

_ENTRIES = (
    Corpus(
        key="emodb",
        title="Emo-DB, Berlin Database of Emotional Speech",
        pattern=r"(?P<speaker>\d\d)(?P<text>[ab]\d\d)(?P<label>[WLEAFTN])[a-z]",
        examples=("03a01Fa.wav", "16b10Wb.wav"),
        labels=_words(W="Wut", L="Langeweile", N="neutral", F="Freude", A="Angst", T="Trauer", E="Ekel"),
        counts={"W": 127, "L": 81, "N": 79, "F": 71, "A": 69, "T": 62, "E": 46},
        num_files=535,
        num_speakers=10,
        hours=0.41,
        languages=("German",),
        licence="CC0-1.0 as republished by audEERING, CC BY 4.0 on Zenodo",
        citation="Burkhardt et al., A Database of German Emotional Speech, Interspeech 2005",
        url="https://zenodo.org/records/17651657",
        sexes=dict.fromkeys(("03", "10", "11", "12", "15"), "male")
        | dict.fromkeys(("08", "09", "13", "14", "16"), "female"),
        names=_emodb_names,
        skipped_folders=("laryngo",),
        remarks=(
            "Release 2.0 holds 281 more files that few listeners agreed on; emodb-2 reads them too.",
            "laryngo/ of release 2.0 repeats every name with the signal of a laryngograph.",
        ),
    ),
    Corpus(
        key="ravdess",
        title="RAVDESS, Ryerson Audio-Visual Database of Emotional Speech and Song (speech)",
        pattern=r"03-01-(?P<label>0[1-8])-0[12]-(?P<text>0[12])-0[12]-(?P<speaker>[01]\d|2[0-4])",
        examples=("Actor_01/03-01-06-01-02-01-01.wav",),
        labels=_numbered("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"),
        counts={"01": 96} | {f"{code:02}": 192 for code in range(2, 9)},
        num_files=1440,
        num_speakers=24,
        hours=1.48,
        languages=("English (North America)",),
        licence="CC BY-NC-SA 4.0",
        citation="Livingstone and Russo, The Ryerson Audio-Visual Database of Emotional Speech and Song, PLOS ONE 2018",
        url="https://zenodo.org/records/1188976",
        sexes=_odd_male(24),
        names=lambda: _ravdess_names("01", [f"{code:02}" for code in range(1, 9)], range(1, 25)),
        remarks=(
            "The Kaggle copy holds every file twice.",
            "Two sentences serve all emotions: independence from the text means leaving one of them out.",
        ),
    ),
    Corpus(
        key="shemo",
        title="ShEMO, Sharif Emotional Speech Database",
        pattern=r"(?P<speaker>(?P<sex>[FM])\d\d)(?P<label>[AFHNSW])\d{2,3}",
        examples=("female/F03S02.wav", "male/M12A01.wav"),
        labels=_words(A="anger", F="fear", H="happiness", N="neutral", S="sadness", W="surprise"),
        counts={"A": 1059, "N": 1028, "S": 449, "W": 225, "H": 201, "F": 38},
        num_files=3000,
        num_speakers=87,
        hours=3.4,
        languages=("Persian",),
        licence="free of charge for academic purposes",
        citation="Mohamad Nezami et al., ShEMO: a large-scale validated database for Persian speech emotion detection, "
        "Language Resources and Evaluation 2019",
        url="https://github.com/mansourehk/ShEMO",
        remarks=(
            "shemo.json lists 2838 of the 3000 files (162 transcripts match no audio name).",
            "F01 and M01 are two people; some speakers have two files.",
            "The zips on GitHub are Git-LFS pointers; the README's Dropbox links work.",
        ),
    ),
    Corpus(
        key="savee",
        title="SAVEE, Surrey Audio-Visual Expressed Emotion",
        pattern=r"(?P<speaker>DC|JE|JK|KL)[/_](?P<label>sa|su|[adfhn])(?P<text>\d\d)",
        examples=("AudioData/DC/a01.wav", "DC_a01.wav"),
        labels=_words(
            a="anger", d="disgust", f="fear", h="happiness", n="neutral", sa="sadness", su="surprise"
        ),
        counts={code: len(_SAVEE_MEN) * count for code, count in _SAVEE_SENTENCES.items()},
        num_files=480,
        num_speakers=4,
        hours=0.51,
        languages=("English (Britain)",),
        licence="free for research, registration required",
        citation="Haq and Jackson, Multimodal Emotion Recognition, in Machine Audition, IGI Global 2010",
        url="http://kahlan.eps.surrey.ac.uk/savee/",
        sexes=dict.fromkeys(_SAVEE_MEN, "male"),
        name="{speaker}_{label}{text}",
        names=_savee_names,
        remarks=(
            "The text id is the sentence's number within its emotion: equal numbers need not be equal texts.",
        ),
    ),
    Corpus(
        key="aesdd",
        title="AESDD, Acted Emotional Speech Dynamic Database",
        pattern=r"(?P<label>[adfhs])(?P<text>\d\d) \(0?(?P<speaker>\d{1,2})\)[ab]?",
        examples=("anger/a01 (1).wav", "fear/f10 (01).wav", "sadness/s12 (5)a.wav"),
        labels=_words(a="anger", d="disgust", f="fear", h="happiness", s="sadness"),
        counts={"s": 123, "d": 122, "a": 121, "f": 120, "h": 119},
        num_files=605,
        num_speakers=6,
        hours=0.69,
        languages=("Greek",),
        licence="not stated",
        citation="Vryzas et al., Speech Emotion Recognition for Performance Interaction, JAES 2018",
        url="http://m3c.web.auth.gr/research/aesdd-speech-emotion-recognition/",
        skipped_folders=("Tools and Documentation",),
        remarks=(
            "sadness/s05 (3).wav is damaged in the released zip: 604 of the 605 files can be read.",
            "The sex of the speakers was not published.",
        ),
    ),
    Corpus(
        key="banglaser",
        title="BanglaSER, Bangla speech emotion recognition",
        pattern=r"0[13]-01-(?P<label>0[1-5])-0[12]-(?P<text>0[1-3])-0[1-3]-(?P<speaker>[0-2]\d|3[0-4])",
        examples=("Actor_01/03-01-03-02-03-01-01.wav",),
        labels=_numbered("happy", "sad", "angry", "surprise", "neutral"),
        counts={"01": 306, "02": 306, "03": 306, "04": 306, "05": 243},
        num_files=1467,
        num_speakers=34,
        hours=1.37,
        languages=("Bangla",),
        licence="CC BY 4.0",
        citation="Das et al., BanglaSER: A speech emotion recognition dataset for the Bangla language, Data in Brief 2022",
        url="https://data.mendeley.com/datasets/t9h6p943xy/5",
        sexes=_odd_male(34),
        remarks=(
            "Names follow the scheme of RAVDESS, with other codes: 01 is happy here and neutral there.",
            "Actors 11, 12, 13, 16, 18, 20 and 29 have no neutral files.",
        ),
    ),
)
CORPORA: Mapping[str, Corpus] = MappingProxyType({entry.key: entry for entry in _ENTRIES})
