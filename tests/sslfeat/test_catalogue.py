"""Every corpus of the catalogue on a tree with its published names: one entry there, one tree here."""

import dataclasses
import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sslfeat import corpora
from sslfeat.corpora import CORPORA, CorpusError, guess_corpus, read_corpus
from sslfeat.corpus import Corpus, words
from tests.sslfeat.test_corpora import aesdd_names, banglaser_names, emodb_names, ravdess_names, savee_names

ROOT = Path(__file__).parents[2]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tree:
    """A corpus as released: its audio paths, its tables, and one utterance of it spelt out."""

    paths: list[str]
    sample: tuple[str, str]  # id and path
    fields: dict[str, str]
    tables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    others: tuple[str, ...] = ()  # audio that is there and is no utterance, in folders that are skipped
    num_left_out: int = 0


def dealt(counts, speakers, form):
    """Deal the published numbers of files out to speakers in turn, numbered where names would repeat."""
    return [
        form.format(code=code, speaker=speakers[i % len(speakers)], n=i // len(speakers) + 1)
        for code, count in counts.items()
        for i in range(count)
    ]


def ravdess_song():
    return Tree(
        paths=[f"Actor_{name[-2:]}/{name}.wav" for name in CORPORA["ravdess-song"].names()],
        sample=("ravdess/03-02-05-02-01-02-24", "Actor_24/03-02-05-02-01-02-24.wav"),
        fields={
            "speaker": "ravdess:24",
            "sex": "female",
            "label": "anger",
            "native_label": "angry",
            "text": "01",
            "intensity": "strong",
        },
    )


def crema_d():
    """Only IEO was said in three strengths, and never neutrally."""
    others = ("TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
    names = []
    for code, count in CORPORA["crema-d"].counts.items():
        levels = ("XX",) if code == "NEU" else ("LO", "MD", "HI")
        said = [*(("IEO", level) for level in levels), *((text, "XX") for text in others)]
        grid = itertools.product(said, range(1001, 1092))
        names += [f"{actor}_{text}_{code}_{level}" for (text, level), actor in itertools.islice(grid, count)]
    names[names.index("1040_ITH_SAD_XX")] = "1040_ITH_SAD_X"
    return Tree(
        paths=[f"AudioWAV/{name}.wav" for name in names],
        sample=("crema-d/1040_ITH_SAD_X", "AudioWAV/1040_ITH_SAD_X.wav"),
        fields={
            "speaker": "crema-d:1040",
            "sex": "male",
            "label": "sadness",
            "native_label": "sad",
            "text": "ITH",
            "intensity": "",
        },
    )


def crema_d_voice():
    rows = ['"","FileName","VoiceVote","VoiceLevel"']
    rows += [
        '"1","1001_IEO_NEU_XX","S","70"',
        '"2","1002_IEO_HAP_HI","A:N","50"',
        '"3","1002_DFA_ANG_XX","A","90"',
    ]
    names = ["1001_IEO_NEU_XX", "1002_IEO_HAP_HI", "1002_DFA_ANG_XX", "1003_DFA_ANG_XX"]
    return Tree(
        paths=[f"AudioWAV/{name}.wav" for name in names],
        tables={"processedResults/summaryTable.csv": "\n".join(rows)},
        num_left_out=2,
        sample=("crema-d/1001_IEO_NEU_XX", "AudioWAV/1001_IEO_NEU_XX.wav"),
        fields={"speaker": "crema-d:1001", "sex": "male", "label": "sadness", "native_label": "sad"},
    )


def tess():
    words = ["back", "food", *(f"w{a}{b}" for a, b in itertools.product(LETTERS, LETTERS))][:200]
    names = [
        f"{actor}_{word}_{label}"
        for actor in ("OAF", "YAF")
        for word in words
        for label in CORPORA["tess"].labels
    ]
    names[names.index("OAF_food_neutral")] = "OA_food_neutral"
    return Tree(
        paths=[f"{name.split('_')[0]}_{name.split('_')[2]}/{name}.wav" for name in names],
        sample=("tess/OA_food_neutral", "OA_neutral/OA_food_neutral.wav"),
        fields={
            "speaker": "tess:OA",
            "sex": "female",
            "label": "neutral",
            "native_label": "neutral",
            "text": "food",
        },
    )


def iemocap_files(counts):
    """Deal labels out to turns of ten dialogues; the letter before the number, not the one in front, speaks."""
    dialogues = [
        f"Ses0{s}{worn}_{scene}"
        for s in range(1, 6)
        for worn, scene in (("F", "impro01"), ("M", "script01_1b"))
    ]
    labelled = [label for label, count in counts.items() for _ in range(count)]
    turns = [
        (f"{dialogue}_{'FM'[i % 2]}{i // len(dialogues):03}", label)
        for i, (dialogue, label) in enumerate(zip(itertools.cycle(dialogues), labelled, strict=False))
    ]
    paths, tables = [], {}
    for name, label in turns:
        dialogue = name.rsplit("_", 1)[0]
        session = f"Session{name[4]}"
        paths.append(f"{session}/sentences/wav/{dialogue}/{name}.wav")
        table = f"{session}/dialog/EmoEvaluation/{dialogue}.txt"
        tables[table] = tables.get(table, "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n") + (
            f"[6.2901 - 8.2357]\t{name}\t{label}\t[2.5000, 2.5000, 2.5000]\nC-E2:\tNeutral;\t()\n"
        )
    return paths, tables


def iemocap():
    counts = dict(CORPORA["iemocap"].counts)
    paths, tables = iemocap_files({**counts, "xxx": 2507})
    return Tree(
        paths=paths,
        tables={**tables, "Session1/dialog/EmoEvaluation/._Ses01F_impro01.txt": "litter"},
        others=("Session1/dialog/wav/Ses01F_impro01.wav",),
        num_left_out=2507,
        sample=("", ""),
        fields={},
    )


def msp_podcast():
    rows = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set\n"
    rows += (
        "MSP-PODCAST_0001_0008.wav,N,3,3,3,127,Male,Test1\nMSP-PODCAST_0001_0019.wav,X,3,3,3,127,Male,Train\n"
    )
    rows += "MSP-PODCAST_0002_0033.wav,C,3,3,3,Unknown,Unknown,Development\n"
    names = [
        "MSP-PODCAST_0001_0008",
        "MSP-PODCAST_0001_0019",
        "MSP-PODCAST_0002_0033",
        "MSP-PODCAST_0009_0001",
    ]
    return Tree(
        paths=[f"Audios/{name}.wav" for name in names],
        tables={"Labels/labels_consensus.csv": rows},
        num_left_out=2,
        sample=("msp-podcast/MSP-PODCAST_0001_0008", "Audios/MSP-PODCAST_0001_0008.wav"),
        fields={
            "speaker": "msp-podcast:127", "sex": "male", "label": "neutral", "native_label": "neutral", "split": "test",
        },
    )  # fmt: skip


def meld():
    folders = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
    counts = {"train": 9989, "dev": 1109, "test": 2610}
    labels = iter([label for label, count in CORPORA["meld"].counts.items() for _ in range(count)])
    paths, tables = [], {}
    for split, count in counts.items():
        rows = [
            "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
        ]
        for i in range(count):
            speaker = ("Rachel", "Ross", "Dr. Green")[i % 3]
            rows.append(
                f'{i},"Oh, my, God!",{speaker},{next(labels)},neutral,{i // 10},{i % 10},8,21,"0:00:01,2","0:00:02"'
            )
            paths.append(f"{folders[split]}/dia{i // 10}_utt{i % 10}.mp4")
        tables[f"{split}_sent_emo.csv"] = "\n".join(rows)
    return Tree(
        paths=paths,
        tables=tables,
        sample=("meld/dev_dia0_utt1", "dev_splits_complete/dia0_utt1.mp4"),
        fields={"speaker": "meld:Ross", "sex": "male", "session": "dev-0", "split": "dev"},
    )


def esd():
    order = ("Neutral", "Angry", "Happy", "Sad", "Surprise")
    paths = []
    for speaker, (i, label), n in itertools.product(range(1, 21), enumerate(order), range(1, 351)):
        part = ("evaluation/" if n <= 20 else "test/" if n <= 50 else "train/") if speaker == 1 else ""
        paths.append(f"{speaker:04}/{label}/{part}{speaker:04}_{350 * i + n:06}.wav")
    return Tree(
        paths=paths,
        tables={"0011/0011.txt": "0011_000001\tThe nine the eggs, I keep.\tNeutral\n"},
        sample=("esd/0001_000701", "0001/Happy/evaluation/0001_000701.wav"),
        fields={
            "speaker": "esd:0001", "sex": "female", "label": "happiness", "native_label": "Happy", "text": "zh001", "split": "dev",
        },
    )  # fmt: skip


def emovo():
    texts = ("b1", "b2", "b3", "l1", "l2", "l3", "l4", "n1", "n2", "n3", "n4", "n5", "d1", "d2")
    speakers = ("f1", "f2", "f3", "m1", "m2", "m3")
    grid = itertools.product(speakers, CORPORA["emovo"].labels, texts)
    return Tree(
        paths=[f"{speaker}/{label}-{speaker}-{text}.wav" for speaker, label, text in grid],
        sample=("emovo/gio-f2-b2", "f2/gio-f2-b2.wav"),
        fields={
            "speaker": "emovo:f2",
            "sex": "female",
            "label": "happiness",
            "native_label": "gioia",
            "text": "b2",
        },
    )


def subesco():
    speakers = [(sex, f"{n:02}") for sex in "FM" for n in range(1, 11)]
    grid = itertools.product(speakers, range(1, 11), CORPORA["subesco"].labels, range(1, 6))
    names = [f"{sex}_{n}_MONIKA_S_{text}_{label}_{take}" for (sex, n), text, label, take in grid]
    names[names.index("F_02_MONIKA_S_2_SURPRISE_3")] = "F_02_MONIKA_S_2_SURPRISE_3]"
    return Tree(
        paths=[f"{name}.wav" for name in names],
        sample=("subesco/F_02_MONIKA_S_2_SURPRISE_3]", "F_02_MONIKA_S_2_SURPRISE_3].wav"),
        fields={"speaker": "subesco:F_02", "sex": "female", "label": "surprise", "text": "S_2"},
    )


def cafe():
    folders = {
        "C": "Colère",
        "D": "D\u201ago\u2013t",  # Dégoût, unpacked in another code page than it was packed in
        "J": "Joie",
        "N": "Neutre",
        "P": "Peur",
        "S": "Surprise",
        "T": "Tristesse",
    }
    grid = itertools.product(range(1, 13), folders, (1, 2), range(1, 7))
    return Tree(
        paths=[
            f"CaFE_48k/{folders[code]}/{'' if code == 'N' else ('Faible/', 'Fort/')[level - 1]}{a:02}-{code}-{level}-{s}.wav"
            for a, code, level, s in grid
            if (code, level) != ("N", 2)
        ],
        sample=("cafe/12-P-2-5", "CaFE_48k/Peur/Fort/12-P-2-5.wav"),
        fields={
            "speaker": "cafe:12",
            "sex": "female",
            "label": "fear",
            "native_label": "Peur",
            "text": "5",
            "intensity": "fort",
        },
    )


def urdu():
    folders = {"A": "Angry", "H": "Happy", "N": "Neutral", "S": "Sad"}
    men = (*range(1, 8), *range(17, 28))
    speakers = [f"SM{n}" for n in men] + [f"SF{n}" for n in range(1, 12)]
    names = dealt(CORPORA["urdu"].counts, speakers, "{speaker}_F{n}_{code}0{n}")
    return Tree(
        paths=[f"{folders[name.split('_')[2][0]]}/{name}.wav" for name in names],
        sample=("urdu/SM1_F1_A01", "Angry/SM1_F1_A01.wav"),
        fields={"speaker": "urdu:SM1", "sex": "male", "label": "anger", "native_label": "Angry"},
    )


def jl_corpus():
    folder = "Raw JL corpus (unchecked and unannotated)/JL(wav+txt)"
    speakers = ("female1", "female2", "male1", "male2")
    grid = itertools.product(speakers, CORPORA["jl-corpus"].labels, range(1, 16), "ab", (1, 2))
    return Tree(
        paths=[f"{folder}/{'_'.join((speaker, label, f'{n}{take}', str(s)))}.wav" for speaker, label, n, take, s in grid],
        sample=("jl-corpus/female2_concerned_6b_1", f"{folder}/female2_concerned_6b_1.wav"),
        fields={
            "speaker": "jl-corpus:female2", "sex": "female", "label": "concern", "native_label": "concerned", "text": "6",
            "session": "1",
        },
    )  # fmt: skip


def oreau():
    """Each speaker said some of the sentences that were written for each emotion; three names aren't numbered like the rest."""
    sexes = CORPORA["oreau"].sexes
    names = []
    for code, count in CORPORA["oreau"].counts.items():
        grid = itertools.product(range(1, 14), sexes)
        names += [f"{speaker}a{n:02}{code}a" for n, speaker in itertools.islice(grid, count)]
    for regular, odd in (("16a02Ja", "16a20Ja"), ("07a01Sa", "07z03Sa"), ("07a02Sa", "07z04Sa")):
        names[names.index(regular)] = odd
    return Tree(
        paths=[f"Ore\u0301auFR_02/{sexes[name[:2]][0]}/sess{name[5].lower()}/{name}.wav" for name in names],
        sample=("oreau/16a20Ja", "Ore\u0301auFR_02/m/sessj/16a20Ja.wav"),
        fields={
            "speaker": "oreau:16",
            "sex": "male",
            "label": "happiness",
            "native_label": "joie",
            "text": "a20J",
        },
    )


def mesd():
    """24 words by each of three voices from each of two lists, less one of anger and one of neutral."""
    names = []
    for label, count in CORPORA["mesd"].counts.items():
        said = [f"{label}_C_A_{word}" for word in ("por_favor", "lento_dentro", "de_nada")]
        grid = itertools.product("FMC", "AB", range(24))
        said += [f"{label}_{voice}_{part}_palabra{n}" for voice, part, n in grid]
        names += said[:count]
    folder = "Mexican Emotional Speech Database (MESD)"
    return Tree(
        paths=[f"{folder}/{name}.wav" for name in names],
        sample=("mesd/Happiness_C_A_lento_dentro", f"{folder}/Happiness_C_A_lento_dentro.wav"),
        fields={
            "speaker": "",
            "sex": "",
            "label": "happiness",
            "native_label": "Happiness",
            "text": "lento_dentro",
        },
    )


def nemo():
    speakers = ("EB0", "IC0", "KD0", "KS0", "MK0", "MP0", "SM0", "TP0", "WR0")
    names = [
        f"{speaker}_{label}_{n}"
        for label, count in CORPORA["nemo"].counts.items()
        for n, speaker in itertools.islice(itertools.product(range(1, 91), speakers), count)
    ]
    return Tree(
        paths=[f"samples/{name}.wav" for name in names],
        sample=("nemo/KS0_surprised_26", "samples/KS0_surprised_26.wav"),
        fields={
            "speaker": "nemo:KS0",
            "sex": "male",
            "label": "surprise",
            "native_label": "surprised",
            "text": "26",
        },
    )


def turev_db():
    speakers = ("1157", "1234", "1358", "1984", "6783", "7895")
    codes = {"Angry": "kz", "Calm": "sk", "Happy": "mt", "Sad": "hl"}
    paths = []
    for label, count in CORPORA["turev-db"].counts.items():
        words = [f"w{a}{b}" for a, b in itertools.product(LETTERS, LETTERS)]
        grid = itertools.product(words, speakers)
        paths += [
            f"Sound Source/{label}/{s}_{codes[label]}_{word}.wav" for word, s in itertools.islice(grid, count)
        ]
    return Tree(
        paths=paths,
        sample=("turev-db/1984_sk_waa", "Sound Source/Calm/1984_sk_waa.wav"),
        fields={"speaker": "turev-db:1984", "label": "calm", "native_label": "Calm", "text": "waa"},
    )


def emodb_2():
    ambiguous = [f"{s:02}a01{e}{v}" for s in (3, 8, 9, 10, 11, 12, 13) for e in "WLEAFTN" for v in "uvwxyz"][
        :281
    ]
    names = [*CORPORA["emodb"].names(), *ambiguous]
    return Tree(
        paths=[f"wav/{name}.wav" for name in names],
        others=tuple(f"laryngo/{name}.wav" for name in names),
        sample=("emodb/03a01Wu", "wav/03a01Wu.wav"),
        fields={"speaker": "emodb:03", "sex": "male", "label": "anger", "native_label": "Wut", "text": "a01"},
    )


def shemo_names(counts):
    speakers = [f"F{n:02}" for n in range(1, 32)] + [f"M{n:02}" for n in range(1, 57)]
    return dealt(counts, speakers, "{speaker}{code}{n:02}")


def shemo_2838():
    names = shemo_names(CORPORA["shemo"].counts)
    kept = shemo_names(CORPORA["shemo-2838"].counts)
    return Tree(
        paths=[f"{'female' if name[0] == 'F' else 'male'}/{name}.wav" for name in names],
        tables={"shemo.json": json.dumps({name: {"emotion": "any"} for name in kept})},
        num_left_out=162,
        sample=("shemo/M56A01", "male/M56A01.wav"),
        fields={"speaker": "shemo:M56", "sex": "male", "label": "anger", "native_label": "anger"},
    )


def shemo_corrected():
    names = shemo_names(CORPORA["shemo"].counts)
    words = {code: native for code, (native, _) in CORPORA["shemo"].labels.items()}
    labels = [words[code] for code, count in CORPORA["shemo-corrected"].counts.items() for _ in range(count)]
    table = {f"{name}.wav": {"emotion": label} for name, label in zip(names, labels, strict=True)}
    return Tree(
        paths=[f"shemo/{name}.wav" for name in names],
        tables={"modified_shemo.json": json.dumps(table)},
        sample=("shemo/F01A01", "shemo/F01A01.wav"),
        fields={"speaker": "shemo:F01", "sex": "female", "label": "neutral", "native_label": "neutral"},
    )


def emodb():
    return Tree(
        paths=emodb_names(),
        others=("laryngo/03a01Fa.wav",),
        sample=("emodb/16b10Wb", "wav/16b10Wb.wav"),
        fields={
            "speaker": "emodb:16",
            "sex": "female",
            "label": "anger",
            "native_label": "Wut",
            "text": "b10",
        },
    )


def ravdess():
    return Tree(
        paths=ravdess_names(),
        sample=("ravdess/03-01-06-01-02-01-12", "Actor_12/03-01-06-01-02-01-12.wav"),
        fields={
            "speaker": "ravdess:12", "sex": "female", "label": "fear", "native_label": "fearful", "text": "02",
            "intensity": "normal",
        },
    )  # fmt: skip


def shemo():
    return Tree(
        paths=[f"{'female' if name[0] == 'F' else 'male'}/{name}.wav" for name in shemo_names(CORPORA["shemo"].counts)],
        sample=("shemo/F03F01", "female/F03F01.wav"),
        fields={"speaker": "shemo:F03", "sex": "female", "label": "fear", "native_label": "fear"},
    )  # fmt: skip


def savee():
    return Tree(
        paths=[f"AudioData/{speaker}/{name}.wav" for speaker, name in savee_names()],
        sample=("savee/KL_su07", "AudioData/KL/su07.wav"),
        fields={
            "speaker": "savee:KL",
            "sex": "male",
            "label": "surprise",
            "native_label": "surprise",
            "text": "su07",
        },
    )


def aesdd():
    return Tree(
        paths=aesdd_names(),
        others=("Tools and Documentation/a01 (1).wav",),
        sample=("aesdd/f10 (01)", "fear/f10 (01).wav"),
        fields={"speaker": "aesdd:1", "sex": "", "label": "fear", "native_label": "fear", "text": "10"},
    )


def banglaser():
    odd = re.compile("03(-01-04-02-03-0[123]-15)")  # three begin with another number
    return Tree(
        paths=[odd.sub(r"01\1", name) for name in banglaser_names()],
        sample=("banglaser/03-01-04-02-03-01-15", "Actor_15/01-01-04-02-03-01-15.wav"),
        fields={
            "speaker": "banglaser:15", "sex": "male", "label": "surprise", "native_label": "surprise", "text": "03",
            "intensity": "strong",
        },
    )  # fmt: skip


TREES = {
    "emodb": emodb,
    "ravdess": ravdess,
    "shemo": shemo,
    "savee": savee,
    "aesdd": aesdd,
    "banglaser": banglaser,
    "ravdess-song": ravdess_song,
    "crema-d": crema_d,
    "crema-d-voice": crema_d_voice,
    "tess": tess,
    "iemocap": iemocap,
    "iemocap-4": iemocap,
    "msp-podcast": msp_podcast,
    "meld": meld,
    "esd": esd,
    "emovo": emovo,
    "subesco": subesco,
    "cafe": cafe,
    "urdu": urdu,
    "jl-corpus": jl_corpus,
    "oreau": oreau,
    "mesd": mesd,
    "nemo": nemo,
    "turev-db": turev_db,
    "emodb-2": emodb_2,
    "shemo-2838": shemo_2838,
    "shemo-corrected": shemo_corrected,
}


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Read a tree whose tables are files and whose audio is a list of names: readers open no audio."""

    def reader(tree, corpus=None):
        for name, content in tree.tables.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content, encoding="utf-8")
        monkeypatch.setattr(corpora, "audio_files", lambda root: sorted((*tree.paths, *tree.others)))
        return read_corpus(tmp_path, corpus)

    return reader


def test_every_corpus_has_a_tree():
    assert set(CORPORA) == set(TREES)


@pytest.mark.parametrize("key", CORPORA)
def test_an_entry_agrees_with_itself(key):
    entry = CORPORA[key]
    assert entry.key == key
    assert set(entry.counts) <= set(entry.labels)
    assert not entry.counts or sum(entry.counts.values()) == entry.num_files
    assert all(noun for _, noun in entry.labels.values())
    if entry.names:
        names = list(entry.names())
        assert len(names) == len(set(names)) == entry.num_files
    assert all(corpora._match(entry, example) for example in entry.examples)
    assert set(entry.sexes.values()) <= {"female", "male"}
    assert not entry.variant_of or entry.variant_of in CORPORA


@pytest.mark.parametrize(
    ("key", "num_women", "num_men"),
    [
        ("crema-d", 43, 48),
        ("ravdess", 12, 12),
        ("cafe", 6, 6),
        ("banglaser", 17, 17),
        ("esd", 10, 10),
        ("nemo", 4, 5),
        ("oreau", 7, 25),
    ],
)
def test_the_published_numbers_of_women_and_men(key, num_women, num_men):
    assert Counter(CORPORA[key].sexes.values()) == {"female": num_women, "male": num_men}


@pytest.mark.parametrize("key", TREES)
def test_a_corpus_on_its_published_names(key, read):
    tree, entry = TREES[key](), CORPORA[key]
    listing = read(tree, key)
    utterances = listing.utterances
    assert (listing.name, listing.guessed) == (key, False)
    assert (listing.unexpected, listing.missing) == ([], [])
    assert [u.id for u in utterances] == sorted({u.id for u in utterances})
    assert {u.corpus for u in utterances} == {entry.family}
    if entry.num_files:
        assert len(utterances) == entry.num_files
        assert listing.is_complete
    if entry.counts:
        native = {
            word: count
            for (word, _), count in zip(
                map(entry.labels.get, entry.counts), entry.counts.values(), strict=True
            )
        }
        assert Counter(u.native_label for u in utterances) == native
    if entry.num_files and entry.num_speakers and key != "meld":  # 304 is more than its tree plays
        assert len({u.speaker for u in utterances}) == entry.num_speakers
    left_out = [int(note.split()[0]) for note in listing.notes if " left out, " in note]
    assert sum(left_out) == len(tree.paths) - len(utterances)
    assert left_out[:1] == [tree.num_left_out][: bool(tree.num_left_out)]
    if tree.fields:
        utterance = next(u for u in utterances if u.id == tree.sample[0])
        assert utterance.path == tree.sample[1]
        assert {name: getattr(utterance, name) for name in tree.fields} == tree.fields


@pytest.mark.parametrize(
    "key", [key for key in TREES if key != "ravdess-song" and not CORPORA[key].variant_of]
)
def test_a_corpus_is_guessed_from_its_names(key, read):
    listing = read(TREES[key]())
    assert (listing.name, listing.guessed) == (key, True)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("shemo-2838", "M56A01"),
        ("shemo-corrected", "F01A01"),
        ("crema-d-voice", "1001_IEO_NEU_XX"),
        ("iemocap", "Ses01F_impro01_F000"),
        ("iemocap-4", "Ses01F_impro01_F510"),
        ("msp-podcast", "MSP-PODCAST_0001_0008"),
        ("meld", "dev_dia0_utt1"),
        ("savee", "KL_su07"),
        ("banglaser", "03-01-05-01-01-03-19"),
        ("cafe", "12-P-2-5"),
        ("emovo", "gio-f2-b2"),
        ("esd", "0001_000701"),
    ],
)
def test_a_file_that_a_table_or_the_release_lists_is_missed_by_its_name(key, name, read):
    tree = TREES[key]()
    (utterance,) = (u for u in read(tree, key).utterances if u.id == f"{CORPORA[key].family}/{name}")
    listing = read(
        dataclasses.replace(tree, paths=[path for path in tree.paths if path != utterance.path]), key
    )
    assert listing.missing == [name]
    assert any(name in note for note in listing.notes)
    assert not listing.is_complete


def test_songs_are_guessed_and_a_variant_of_the_same_names_is_not(read):
    assert read(ravdess_song()).name == "ravdess-song"
    assert read(emodb_2()).name == "emodb"


@pytest.mark.parametrize(
    ("key", "counts"),
    [
        ("ravdess-song", {"normal": 552, "strong": 460}),  # there is no strong neutral
        ("crema-d", {"": 6077, "low": 455, "medium": 455, "high": 455}),
        ("cafe", {"faible": 504, "fort": 432}),
    ],
)
def test_how_strongly_an_emotion_was_acted(key, counts, read):
    assert Counter(u.intensity for u in read(TREES[key](), key).utterances) == counts


@pytest.mark.parametrize(
    "key",
    ["banglaser", "esd", "meld", "shemo", "crema-d", "nemo", "turev-db", "oreau", "mesd", "savee", "aesdd"],
)
def test_what_the_citation_does_not_say_has_a_source(key):
    assert CORPORA[key].sources
    assert all(re.fullmatch(r"\S.*: https://\S+", source) for source in CORPORA[key].sources)


def test_equal_numbers_of_two_emotions_are_two_sentences_of_oreau(read):
    # 79 sentences were written, 10 to 13 for each emotion; a20, z03 and z04 are numbered beside them.
    paths = [f"{name}.wav" for name in ("10a02Ja", "11a02Ja", "10a02Sa")]
    first, other, second = read(Tree(paths=paths, sample=("", ""), fields={}), "oreau").utterances
    assert [u.id for u in (first, other, second)] == ["oreau/10a02Ja", "oreau/10a02Sa", "oreau/11a02Ja"]
    assert (first.text, other.text, second.text) == ("a02J", "a02S", "a02J")
    assert {u.sex for u in (first, other, second)} == {"female"}  # without the folder that says it, too


def test_a_sentence_of_savee_is_shared_as_the_corpus_shared_it(read):
    texts = {u.id.removeprefix("savee/"): u.text for u in read(savee(), "savee").utterances}
    common = {name[:2] + name[-2:]: text for name, text in texts.items() if name[-2:] <= "03"}
    assert common == {f"{man}{text}": text for man in ("DC", "JE", "JK", "KL") for text in ("01", "02", "03")}
    # "Who authorized the unlimited expense account?" and "Call an ambulance for medical assistance."
    assert texts["JE_a04"] == texts["KL_n19"] == texts["DC_n19"] == "a04"
    assert texts["JE_f04"] == texts["KL_n23"] == "f04"
    # 3 common, 2 of each of six emotions that are neutral too, 10 generic ones of each and 15 of neutral alone.
    assert len(set(texts.values())) == 3 + 2 * 6 + 10 * 6 + 15
    assert Counter(Counter(text for name, text in texts.items() if name[:2] == "DC").values()) == {
        7: 3,
        2: 12,
        1: 75,
    }


def test_what_an_actor_of_aesdd_improvised_is_nobody_elses_sentence(read):
    names = [
        "anger/a19 (1)",
        "fear/f19 (5)b",
        "anger/a20 (1)",
        "anger/a20 (2)",
        "fear/f20 (1)",
        "anger/a20 (01)",
    ]
    utterances = read(
        Tree(paths=[f"{name}.wav" for name in names], sample=("", ""), fields={}), "aesdd"
    ).utterances
    texts = {u.id.removeprefix("aesdd/"): u.text for u in utterances}
    assert texts["a19 (1)"] == texts["f19 (5)b"] == "19"
    assert texts["a20 (1)"] == texts["a20 (01)"] == "a20-1"
    assert (texts["a20 (2)"], texts["f20 (1)"]) == ("a20-2", "f20-1")


def test_equal_sentences_of_esd_have_equal_texts_in_all_emotions_and_speakers_of_a_language(read):
    # Sentence 131 is "It must come sometimes to jam a day." of English speakers in every emotion.
    said = [
        "0015/Neutral/0015_000131",
        "0015/Sad/0015_001181",
        "0020/Happy/0020_000831",
        "0011/Angry/0011_000481",
    ]
    paths = [f"{name}.wav" for name in (*said, "0001/Happy/0001_000831", "0015/Neutral/0015_000132")]
    utterances = read(Tree(paths=paths, sample=("", ""), fields={}), "esd").utterances
    texts = {u.path.rpartition(".")[0]: u.text for u in utterances}
    assert {texts[name] for name in said} == {"en131"}
    assert texts["0001/Happy/0001_000831"] == "zh131"
    assert texts["0015/Neutral/0015_000132"] == "en132"


# --- the pages that show the catalogue ---


def test_contributing_adds_a_corpus_by_one_entry_and_one_tree(monkeypatch, read):
    page = (ROOT / "CONTRIBUTING.md").read_text()
    entry_code, tree_code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len((entry_code + tree_code).splitlines()) <= 10
    entry = eval(entry_code, {"Corpus": Corpus, "words": words})
    names = {"Tree": Tree, "itertools": itertools}
    exec(tree_code, names)
    monkeypatch.setattr(corpora, "CORPORA", {**CORPORA, entry.key: entry})
    monkeypatch.setitem(globals(), "CORPORA", corpora.CORPORA)
    monkeypatch.setitem(TREES, entry.key, names[entry.key])
    test_an_entry_agrees_with_itself(entry.key)
    test_a_corpus_on_its_published_names(entry.key, read)
    test_a_corpus_is_guessed_from_its_names(entry.key, read)


def catalogue_table():
    """Return the table of docs/corpora.md; printed by hand where the catalogue changed."""
    lines = [
        "| key | corpus | files | speakers | labels | hours | languages | licence |",
        "|---|---|--:|--:|--:|--:|---|---|",
    ]
    for entry in CORPORA.values():
        labels = len({noun for _, noun in entry.labels.values()})
        cells = (
            f"`{entry.key}`", f"[{entry.title}]({entry.url})", entry.num_files or "", entry.num_speakers or "", labels,
            f"{entry.hours:g}" if entry.hours else "", ", ".join(entry.languages), entry.licence,
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def test_the_page_of_known_corpora_is_the_catalogue():
    assert catalogue_table() in (ROOT / "docs/corpora.md").read_text()


def test_the_real_names_of_banglaser():
    folder = ROOT.parent / "shared/speech/banglaser"
    if not folder.is_dir():
        pytest.skip("BanglaSER isn't beside the checkout")
    listing = read_corpus(folder)
    assert (listing.name, listing.guessed, listing.unexpected) == ("banglaser", True, [])
    # 1466 are released of the 1467 that the paper counts.
    assert listing.notes == [
        "1466 utterances, banglaser has 1467. Missing: 03-01-05-01-01-03-19.",
        "Counts that differ from the published ones: neutral 242 of 243.",
    ]
    assert len({u.speaker for u in listing.utterances}) == 34


# --- what tables say ---


def test_iemocap_takes_the_speaker_of_the_turn_and_not_of_the_markers(read):
    names = ["Ses01F_impro01_M003", "Ses01F_impro01_F003", "Ses01M_script02_2_F011", "Ses05M_impro05b_MXX1"]
    lines = "".join(f"[1.0 - 2.0]\t{name}\texc\t[1, 2, 3]\n" for name in names)
    tree = Tree(
        paths=[f"Session1/sentences/wav/x/{name}.wav" for name in names],
        tables={"Session1/dialog/EmoEvaluation/all.txt": lines},
        sample=("", ""),
        fields={},
    )
    utterances = {u.id: u for u in read(tree, "iemocap").utterances}
    facts = {key: (u.speaker, u.sex, u.session, u.text, u.label) for key, u in utterances.items()}
    assert facts == {
        "iemocap/Ses01F_impro01_F003": ("iemocap:01F", "female", "1", "Ses01F_impro01", "excitement"),
        "iemocap/Ses01F_impro01_M003": ("iemocap:01M", "male", "1", "Ses01F_impro01", "excitement"),
        "iemocap/Ses01M_script02_2_F011": ("iemocap:01F", "female", "1", "script02_2", "excitement"),
        "iemocap/Ses05M_impro05b_MXX1": ("iemocap:05M", "male", "5", "Ses05M_impro05", "excitement"),
    }
    assert {(u.label, u.native_label) for u in read(tree, "iemocap-4").utterances} == {
        ("happiness", "excited")
    }


def test_msp_podcast_reads_its_json_too_and_keeps_unknown_speakers_unnamed(read):
    tree = msp_podcast()
    table = {
        "MSP-PODCAST_0001_0008.wav": {
            "EmoClass": "N",
            "SpkrID": 127,
            "Gender": "Female",
            "Split_Set": "Train",
        },
        "MSP-PODCAST_0002_0033.wav": {
            "EmoClass": "C",
            "SpkrID": "Unknown",
            "Gender": "Unknown",
            "Split_Set": "Test3",
        },
    }
    tree = dataclasses.replace(tree, tables={"label/labels_concensus.json": json.dumps(table)})
    known, unknown = read(tree, "msp-podcast").utterances
    assert (known.speaker, known.sex, known.split) == ("msp-podcast:127", "female", "train")
    assert (unknown.speaker, unknown.sex, unknown.split, unknown.label) == ("", "", "test3", "contempt")


@pytest.mark.parametrize("suffix", ["mp4", "wav"])
def test_meld_keeps_the_plain_name_of_a_turn_that_comes_twice(read, tmp_path, suffix):
    rows = "Speaker,Emotion,Dialogue_ID,Utterance_ID\nJoey,joy,0,0\nGunther,anger,0,1\n"
    folder = "output_repeated_splits_test"
    tree = Tree(
        paths=[
            f"{folder}/{name}.{suffix}"
            for name in ("dia0_utt0", "final_videos_testdia0_utt0", "final_videos_testdia0_utt1")
        ],
        tables={f"{split}_sent_emo.csv": rows for split in ("train", "dev", "test")},
        sample=("", ""),
        fields={},
    )
    (tmp_path / folder).mkdir()
    (tmp_path / folder / f"dia0_utt0.{suffix}").touch()
    utterances = read(tree, "meld").utterances
    assert [(u.id, u.speaker, u.sex, u.label) for u in utterances] == [
        ("meld/test_dia0_utt0", "meld:Joey", "male", "happiness"),
        ("meld/test_dia0_utt1", "meld:Gunther", "", "anger"),
    ]
    assert utterances[1].path == f"{folder}/final_videos_testdia0_utt1.{suffix}"


def test_the_corrections_of_shemo_go_by_a_newer_name_too(read):
    tree = shemo_corrected()
    listing = read(
        dataclasses.replace(tree, tables={"mShEMO.json": tree.tables["modified_shemo.json"]}),
        "shemo-corrected",
    )
    assert listing.is_complete


def test_shemo_json_is_a_list_in_its_older_form(read):
    tree = shemo_2838()
    older = [{"id": name, "emotion": "any"} for name in json.loads(tree.tables["shemo.json"])]
    listing = read(dataclasses.replace(tree, tables={"shemo.json": json.dumps(older)}), "shemo-2838")
    assert len(listing.utterances) == 2838
    assert listing.is_complete


def crema_d_sexes(folder, table):
    """Read three actors of CREMA-D whose sexes the demographics file beside the audio says."""
    (folder / "AudioWAV").mkdir()
    for actor in (1001, 1002, 1003):
        (folder / f"AudioWAV/{actor}_DFA_ANG_XX.wav").touch()
    if table:
        (folder / "VideoDemographics.csv").write_text(table)
    (folder / "summaryTable.csv").write_text(
        "FileName,VoiceVote\n" + "".join(f"{actor}_DFA_ANG_XX,A\n" for actor in (1001, 1002, 1003))
    )
    return [
        [(u.speaker[-4:], u.sex) for u in read_corpus(folder / "AudioWAV", key).utterances]
        for key in ("crema-d", "crema-d-voice")
    ]


def test_crema_d_takes_the_sexes_of_its_demographics_file(tmp_path):
    table = '"ActorID","Age","Sex","Race","Ethnicity"\n1001,51,"Female","Caucasian","Not Hispanic"\n1002,21,"Male","",""\n'
    said = [
        ("1001", "female"),
        ("1002", "male"),
        ("1003", "female"),
    ]  # of 1003 it says nothing, the catalogue does
    assert crema_d_sexes(tmp_path, table) == [said, said]


def test_crema_d_without_its_demographics_file_takes_the_published_sexes(tmp_path):
    said = [("1001", "male"), ("1002", "female"), ("1003", "female")]
    assert crema_d_sexes(tmp_path, "") == [said, said]


def test_a_table_beside_the_audio_folder_is_found(tmp_path, monkeypatch):
    tree = crema_d_voice()
    (tmp_path / "processedResults").mkdir()
    (tmp_path / "processedResults/summaryTable.csv").write_text(
        tree.tables["processedResults/summaryTable.csv"]
    )
    (tmp_path / "AudioWAV").mkdir()
    for path in tree.paths:
        (tmp_path / path).touch()
    assert len(read_corpus(tmp_path / "AudioWAV", "crema-d-voice").utterances) == 2


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("shemo-2838", r"no shemo\.json in it or beside it, which lists the files"),
        ("shemo-corrected", r"no modified_shemo\.json or mShEMO\.json in it"),
        ("crema-d-voice", r"no summaryTable\.csv in it"),
        ("iemocap", r"no Session\*/dialog/EmoEvaluation/\*\.txt in it"),
        ("msp-podcast", r"no labels_consensus\.csv or labels_consensus\.json or .* in it"),
        ("meld", r"no train_sent_emo\.csv in it"),
    ],
)
def test_a_table_that_is_not_there_is_named(key, message, read):
    with pytest.raises(CorpusError, match=message):
        read(dataclasses.replace(TREES[key](), tables={}), key)


@pytest.mark.parametrize(
    ("key", "table", "content", "message"),
    [
        ("shemo-2838", "shemo.json", "{", r"shemo\.json: no JSON that can be read"),
        ("shemo-2838", "shemo.json", "[1]", r"shemo\.json: a JSON object by file name was expected\. Got a list"),
        ("shemo-corrected", "modified_shemo.json", '{"F01A01.wav": {"emotion": "joy"}}', r"an emotion out of anger, .*'joy'"),
        ("shemo-2838", "shemo.json", '[{"id": "F01A01"}, {"name": "F01A02"}]', r"a JSON object by file name was expected\. Got a list"),
        ("crema-d", "VideoDemographics.csv", "ActorID,Gender\n1001,Male\n", r"Demographics\.csv: no column 'Sex'; its columns are ActorID, Gender"),
        ("crema-d-voice", "summaryTable.csv", "FileName,Vote\na,b\n", r"no column 'VoiceVote'; its columns are FileName, Vote"),
    ],
)  # fmt: skip
def test_a_table_that_is_damaged(key, table, content, message, read):
    with pytest.raises(CorpusError, match=message):
        read(dataclasses.replace(TREES[key](), tables={table: content}), key)


def test_a_label_that_the_corpus_does_not_have_is_unexpected(read):
    tree = dataclasses.replace(iemocap(), paths=["Session1/sentences/wav/x/Ses01F_impro01_F000.wav"])
    table = {"Session1/dialog/EmoEvaluation/x.txt": "[1.0 - 2.0]\tSes01F_impro01_F000\tzzz\t[1, 2, 3]\n"}
    listing = read(dataclasses.replace(tree, tables=table), "iemocap")
    assert listing.unexpected == tree.paths
    assert not listing.is_complete


def test_guessing_reads_no_table(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "audio_files", lambda root: msp_podcast().paths)
    assert guess_corpus(tmp_path) == "msp-podcast"


# --- properties ---

fragments = st.sampled_from(
    [
        *"0123456789abcdefgANGWF_-/ ().[]é",
        *(example.rpartition(".")[0] for entry in CORPORA.values() for example in entry.examples),
    ]
)


@given(st.lists(fragments, max_size=8).map("".join))
def test_any_name_is_of_a_corpus_with_all_its_fields_or_not_at_all(name):
    for entry in CORPORA.values():
        fields = corpora._match(entry, f"{name}.wav")
        if fields is not None:
            assert fields["stem"] == name.rpartition("/")[2]
            assert entry.annotate or fields["label"] in entry.labels
            assert entry.annotate or "{" not in entry.name.format(**fields)


@given(st.sampled_from(list(CORPORA)), st.sampled_from([".wav", ".WAV", ".flac", ".mp3"]), st.sampled_from(["", "a/", "b (1)/c.d/"]))  # fmt: skip
def test_an_example_is_read_under_any_suffix_and_below_any_folder(key, suffix, prefix):
    entry = CORPORA[key]
    for example in entry.examples:
        stem = example.rpartition(".")[0]
        assert corpora._match(entry, f"{prefix}{stem}{suffix}") == corpora._match(entry, example)
