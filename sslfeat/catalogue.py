"""The corpora this package knows by name: one entry each, with its naming scheme and its published facts.

Sources, where an entry's own citation doesn't give them: sizes, durations and rates of the files from EmoBox (metadata
of github.com/emo-box/EmoBox at 08280f2); names as that project's and SERAB's scripts read them; licences from the
corpora's own pages and from SuperKogito/SER-datasets; anything else from an entry's own ``sources``.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sslfeat import annotations, published
from sslfeat.corpus import Corpus, numbered, odd_male, words

_LIVINGSTONE = "Livingstone and Russo, The Ryerson Audio-Visual Database of Emotional Speech and Song (RAVDESS), PLOS ONE 2018"
_RAVDESS_INTENSITIES = {"01": "normal", "02": "strong"}
_JL_LABELS = (
    *("angry", "sad", "neutral", "happy", "excited"),
    *("apologetic", "anxious", "assertive", "concerned", "encouraging"),
)
# VideoDemographics.csv of the corpus at 98df52c: these 43 of the 91 actors; copies on Kaggle lack the file.
_CREMA_D_WOMEN = frozenset(
    {*range(1002, 1005), *range(1006, 1011), 1012, 1013, 1018, 1020, 1021, 1024, 1025, *range(1028, 1031)}
    | {1037, 1043, 1046, 1047, 1049, *range(1052, 1057), 1058, 1060, 1061, 1063, *range(1072, 1077)}
    | {1078, 1079, 1082, 1084, 1089, 1091}
)

_ENTRIES = (
    Corpus(
        key="emodb",
        title="Emo-DB, Berlin Database of Emotional Speech",
        pattern=r"(?P<speaker>\d\d)(?P<text>[ab]\d\d)(?P<label>[WLEAFTN])[a-z]",
        examples=("03a01Fa.wav", "16b10Wb.wav"),
        labels=words(W="Wut", L="Langeweile", N="neutral", F="Freude", A="Angst", T="Trauer", E="Ekel"),
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
        names=published.emodb,
        skipped_folders=("laryngo",),
        remarks=(
            "Release 2.0 holds 281 more files that few listeners agreed on; emodb-2 reads them too.",
            "laryngo/ of release 2.0 repeats every name with the signal of a laryngograph.",
        ),
    ),
    Corpus(
        key="ravdess",
        title="RAVDESS, Ryerson Audio-Visual Database of Emotional Speech and Song (speech)",
        pattern=r"03-01-(?P<label>0[1-8])-(?P<intensity>0[12])-(?P<text>0[12])-0[12]-(?P<speaker>[01]\d|2[0-4])",
        examples=("Actor_01/03-01-06-01-02-01-01.wav",),
        labels=numbered("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"),
        intensities=_RAVDESS_INTENSITIES,
        counts={"01": 96} | {f"{code:02}": 192 for code in range(2, 9)},
        num_files=1440,
        num_speakers=24,
        hours=1.48,
        languages=("English (North America)",),
        licence="CC BY-NC-SA 4.0",
        citation=_LIVINGSTONE,
        url="https://zenodo.org/records/1188976",
        sexes=odd_male(24),
        names=lambda: published.ravdess("01", [f"{code:02}" for code in range(1, 9)], range(1, 25)),
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
        labels=words(A="anger", F="fear", H="happiness", N="neutral", S="sadness", W="surprise"),
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
        sources=(
            "shemo.json: https://github.com/pariajm/sharif-emotional-speech-dataset",
            "numbers per label, and corrections: https://github.com/aliyzd95/modified_shemo",
        ),
    ),
    Corpus(
        key="savee",
        title="SAVEE, Surrey Audio-Visual Expressed Emotion",
        pattern=r"(?P<speaker>DC|JE|JK|KL)[/_](?P<label>sa|su|[adfhn])(?P<number>\d\d)",
        examples=("AudioData/DC/a01.wav", "DC_a01.wav"),
        labels=words(
            a="anger", d="disgust", f="fear", h="happiness", n="neutral", sa="sadness", su="surprise"
        ),
        counts={code: len(published.SAVEE_MEN) * count for code, count in published.SAVEE_SENTENCES.items()},
        num_files=480,
        num_speakers=4,
        hours=0.51,
        languages=("English (Britain)",),
        licence="free for research, registration required",
        citation="Haq and Jackson, Multimodal Emotion Recognition, in Machine Audition, IGI Global 2010",
        url="http://kahlan.eps.surrey.ac.uk/savee/",
        sexes=dict.fromkeys(published.SAVEE_MEN, "male"),
        name="{speaker}_{label}{number}",
        names=published.savee,
        annotate=annotations.savee,
        remarks=(
            "Sentences 01 to 03 are the same in all emotions, and neutral 19 to 30 are the 04 and 05 of anger, disgust, fear, "
            "surprise, sadness and happiness: equal ones have one text id. Which they are is told from durations.",
        ),
        sources=(
            "3 common, 2 own and 10 generic sentences of each emotion: "
            "https://www.kaggle.com/datasets/ejlok1/surrey-audiovisual-expressed-emotion-savee",
            "durations: https://github.com/emo-box/EmoBox/blob/main/data/savee/savee.jsonl",
        ),
    ),
    Corpus(
        key="aesdd",
        title="AESDD, Acted Emotional Speech Dynamic Database",
        pattern=r"(?P<label>[adfhs])(?P<number>\d\d) \(0?(?P<speaker>\d{1,2})\)[ab]?",
        examples=("anger/a01 (1).wav", "fear/f10 (01).wav", "sadness/s12 (5)a.wav"),
        labels=words(a="anger", d="disgust", f="fear", h="happiness", s="sadness"),
        counts={"s": 123, "d": 122, "a": 121, "f": 120, "h": 119},
        num_files=605,
        num_speakers=6,
        hours=0.69,
        languages=("Greek",),
        licence="not stated",
        citation="Vryzas et al., Speech Emotion Recognition for Performance Interaction, JAES 2018",
        url="http://m3c.web.auth.gr/research/aesdd-speech-emotion-recognition/",
        skipped_folders=("Tools and Documentation",),
        annotate=annotations.aesdd,
        remarks=(
            "Sentences 01 to 19 are the same for all, 20 is improvised: each of those has a text id of its own.",
            "sadness/s05 (3).wav is damaged in the released zip: 604 of the 605 files can be read.",
            "The sex of the speakers was not published.",
        ),
        sources=("sentences: https://huggingface.co/datasets/EdwardLin2023/AESDD",),
    ),
    Corpus(
        key="banglaser",
        title="BanglaSER, Bangla speech emotion recognition",
        # Three files begin with 01, as the films of RAVDESS do.
        pattern=r"(?:03|01(?=-01-04-02-03-0[1-3]-15))-01-(?P<label>0[1-5])-(?P<intensity>0[12])-(?P<text>0[1-3])-(?P<take>0[1-3])-"
        r"(?P<speaker>[0-2]\d|3[0-4])",
        examples=("Actor_01/03-01-03-02-03-01-01.wav",),
        labels=numbered("happy", "sad", "angry", "surprise", "neutral"),
        intensities=_RAVDESS_INTENSITIES,
        counts={"01": 306, "02": 306, "03": 306, "04": 306, "05": 243},
        num_files=1467,
        num_speakers=34,
        hours=1.37,
        languages=("Bangla",),
        licence="CC BY 4.0",
        citation="Das et al., BanglaSER: A speech emotion recognition dataset for the Bangla language, Data in Brief 2022",
        url="https://data.mendeley.com/datasets/t9h6p943xy/5",
        sexes=odd_male(34),
        name="03-01-{label}-{intensity}-{text}-{take}-{speaker}",
        names=published.banglaser,
        remarks=(
            "Names follow the scheme of RAVDESS, with other codes: 01 is happy here and neutral there.",
            "Actors 11, 12, 13, 16, 18, 20 and 29 have no neutral files.",
            "Happy, sad and neutral are named as of normal intensity, angry and surprise as strong.",
            "The codes were never published as a table. That 05 is neutral shows in the numbers, the pairs 01 and 02, 03 and "
            "04 in the intensities; within them the sad and the surprised one is the softer: 02 for 32 of 34 speakers, 04 for "
            "30.",
        ),
        sources=(
            "names and intensities: https://data.mendeley.com/datasets/t9h6p943xy/2",
            "numbers: https://data.mendeley.com/datasets/t9h6p943xy/5",
            "the same codes: https://github.com/subhajyotisaha01/SpeechEmotionRecognition",
        ),
    ),
    Corpus(
        key="ravdess-song",
        title="RAVDESS, Ryerson Audio-Visual Database of Emotional Speech and Song (song)",
        pattern=r"03-02-(?P<label>0[1-6])-(?P<intensity>0[12])-(?P<text>0[12])-0[12]-(?P<speaker>[01]\d|2[0-4])",
        examples=("Actor_01/03-02-06-01-02-01-01.wav",),
        labels=numbered("neutral", "calm", "happy", "sad", "angry", "fearful"),
        intensities=_RAVDESS_INTENSITIES,
        counts={"01": 92} | {f"{code:02}": 184 for code in range(2, 7)},
        num_files=1012,
        num_speakers=23,
        hours=1.31,
        languages=("English (North America)",),
        licence="CC BY-NC-SA 4.0",
        citation=_LIVINGSTONE,
        url="https://zenodo.org/records/1188976",
        sexes={actor: sex for actor, sex in odd_male(24).items() if actor != "18"},
        names=lambda: published.ravdess(
            "02", [f"{code:02}" for code in range(1, 7)], [actor for actor in range(1, 25) if actor != 18]
        ),
        variant_of="ravdess",
        remarks=("Actor 18 recorded no songs.",),
    ),
    Corpus(
        key="crema-d",
        title="CREMA-D, Crowd-sourced Emotional Multimodal Actors Dataset",
        # 1040_ITH_SAD_X is released with one X.
        pattern=r"(?P<speaker>10\d\d)_(?P<text>[A-Z]{3})_(?P<label>ANG|DIS|FEA|HAP|NEU|SAD)_(?P<intensity>LO|MD|HI|XX?)",
        examples=("AudioWAV/1001_DFA_ANG_XX.wav",),
        labels=words(ANG="anger", DIS="disgust", FEA="fear", HAP="happy", NEU="neutral", SAD="sad"),
        intensities={"LO": "low", "MD": "medium", "HI": "high"},  # XX is unspecified
        counts=dict.fromkeys(("ANG", "DIS", "FEA", "HAP", "SAD"), 1271) | {"NEU": 1087},
        num_files=7442,
        num_speakers=91,
        hours=5.3,
        languages=("English (North America)",),
        licence="ODbL 1.0, contents DbCL 1.0",
        citation="Cao et al., CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset, IEEE TAC 2014",
        url="https://github.com/CheyneyComputerScience/CREMA-D",
        sexes={f"{actor}": "female" if actor in _CREMA_D_WOMEN else "male" for actor in range(1001, 1092)},
        annotate=annotations.crema_d,
        remarks=(
            "The label is the emotion that the actor was asked for; crema-d-voice takes what listeners heard.",
            "1076_MTI_SAD_XX.wav has no audio.",
            "Downloaded as a zip from GitHub, the files are Git-LFS pointers.",
            "Sexes come from VideoDemographics.csv where it lies in or beside the folder, else from a copy of it.",
        ),
        sources=(
            "sexes: https://github.com/CheyneyComputerScience/CREMA-D/blob/master/VideoDemographics.csv",
        ),
    ),
    Corpus(
        key="tess",
        title="TESS, Toronto Emotional Speech Set",
        # OA_bite_neutral is released without the F.
        pattern=r"(?P<speaker>[OY]A)F?_(?P<text>[A-Za-z]+)_(?P<label>angry|disgust|fear|happy|neutral|ps|sad)",
        examples=("OAF_back_angry.wav", "YAF_food_ps.wav"),
        labels=words(
            angry="angry",
            disgust="disgust",
            fear="fear",
            happy="happy",
            neutral="neutral",
            ps="pleasant surprise",
            sad="sad",
        ),
        counts=dict.fromkeys(("angry", "disgust", "fear", "happy", "neutral", "ps", "sad"), 400),
        num_files=2800,
        num_speakers=2,
        hours=1.6,
        languages=("English (Canada)",),
        licence="CC BY-NC-ND 4.0",
        citation="Pichora-Fuller and Dupuis, Toronto emotional speech set (TESS), 2020",
        url="https://doi.org/10.5683/SP2/E8H2MF",
        sexes={"OA": "female", "YA": "female"},
        remarks=(
            "Two speakers and one carrier phrase: scores are near 100 % unless a speaker is held out.",
            "24 414 Hz, and OAF_food_fear.wav at 96 kHz.",
        ),
    ),
    Corpus(
        key="iemocap",
        title="IEMOCAP, Interactive Emotional Dyadic Motion Capture",
        # A script is the same lines in every session, and no two improvisations of a scene are.
        pattern=r"(?=Ses(?P<session>0[1-5]))(?:Ses\d\d[FM]_(?=script))?"
        r"(?P<text>Ses\d\d[FM]_impro\d\d|script\d\d(?:_\d)?)[a-z]?_(?P<sex>[FM])(?:XX)?\d+",
        examples=("Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav",),
        labels=words(
            ang="angry",
            hap="happy",
            sad="sad",
            neu="neutral",
            fru="frustrated",
            exc="excited",
            fea="fearful",
            sur="surprised",
            dis="disgusted",
            oth="other",
        ),
        counts={
            **{"fru": 1849, "neu": 1708, "ang": 1103, "sad": 1084, "exc": 1041, "hap": 595, "sur": 107},
            **{"fea": 40, "oth": 3, "dis": 2},
        },
        num_files=7532,
        num_speakers=10,
        hours=9.5,
        languages=("English (North America)",),
        licence="by signed form",
        citation="Busso et al., IEMOCAP: interactive emotional dyadic motion capture database, LREC 2008",
        url="https://sail.usc.edu/iemocap/",
        annotate=annotations.iemocap,
        skipped_folders=("dialog",),
        remarks=(
            "Ses01F names the actor with the markers, not the speaker: that is the letter before the turn's number.",
            "iemocap-4 is the usual subset of four classes, excited counted as happiness (5531 files).",
            "The text id is the script, which all sessions share, or the improvised dialogue: its turns aren't told apart.",
        ),
    ),
    Corpus(
        key="msp-podcast",
        title="MSP-Podcast",
        pattern=r"MSP-PODCAST_\d{4}_\d{4}(?:_\d{4})?",
        examples=("Audios/MSP-PODCAST_0001_0008.wav",),
        labels=words(
            A="angry", S="sad", H="happy", U="surprise", F="fear", D="disgust", C="contempt", N="neutral"
        ),
        languages=("English",),
        licence="academic licence",
        citation="Lotfian and Busso, Building naturalistic emotionally balanced speech corpus, IEEE TAC 2019",
        url="https://ecs.utdallas.edu/research/researchlabs/msp-lab/MSP-Podcast.html",
        annotate=annotations.msp_podcast,
        remarks=(
            "Sizes differ by release: EmoBox's has 73 042 files, 58 026 of them with one of these labels, 113.6 hours.",
            "The corpus's own split is fixed; speakers it calls Unknown get no speaker here.",
        ),
    ),
    Corpus(
        key="meld",
        title="MELD, Multimodal EmotionLines Dataset",
        pattern=r"(?P<folder>train_splits|dev_splits_complete|output_repeated_splits_test)/"
        r"(?P<prefix>final_videos_test)?dia(?P<dialogue>\d+)_utt(?P<turn>\d+)",
        examples=("train_splits/dia0_utt0.mp4", "dev_splits_complete/dia1_utt2.mp4"),
        labels=words(
            {word: word for word in ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")}
        ),
        counts={
            **{"neutral": 6436, "joy": 2308, "surprise": 1636, "anger": 1607, "sadness": 1002},
            **{"disgust": 361, "fear": 358},
        },
        num_files=13708,
        num_speakers=304,
        hours=12.1,
        languages=("English",),
        licence="GPL-3.0",
        citation="Poria et al., MELD: A Multimodal Multi-Party Dataset for Emotion Recognition in Conversations, ACL 2019",
        url="https://affective-meld.github.io/",
        sexes=dict.fromkeys(("Monica", "Phoebe", "Rachel"), "female")
        | dict.fromkeys(("Chandler", "Joey", "Ross"), "male"),
        name="{split}_dia{dialogue}_utt{turn}",
        annotate=annotations.meld,
        remarks=(
            "mp4: needs PyAV (extra video).",
            "dia110_utt7 of dev isn't released and dia125_utt3 of train is damaged, which leaves 13 706.",
            "Some films have no row in the tables, and are left out; some were cut wrongly, to minutes.",
            "The same actors speak in train, dev and test: the corpus's own split tests on known speakers.",
            "Turns last from 0.06 to 305 seconds, with laughter and several voices.",
        ),
        sources=(
            "numbers per label and split: https://github.com/declare-lab/MELD",
            "missing film, films without a row: https://github.com/declare-lab/MELD/issues/22",
            "damaged film: https://github.com/declare-lab/MELD/issues/39",
            "films cut wrongly: https://github.com/declare-lab/MELD/issues/20",
        ),
    ),
    Corpus(
        key="esd",
        title="ESD, Emotional Speech Database",
        pattern=r"(?P<speaker>00[01]\d|0020)/(?P<label>Angry|Happy|Neutral|Sad|Surprise)/"
        r"(?:(?P<part>train|evaluation|test)/)?00\d\d_(?P<number>\d{6})",
        examples=("0011/Angry/0011_000351.wav", "0001/Happy/test/0001_000721.wav"),
        labels=words({word: word for word in ("Angry", "Happy", "Neutral", "Sad", "Surprise")}),
        counts=dict.fromkeys(("Angry", "Happy", "Neutral", "Sad", "Surprise"), 7000),
        num_files=35000,
        num_speakers=20,
        hours=29.1,
        languages=("Chinese (Mandarin)", "English"),
        licence="for research",
        citation="Zhou et al., Emotional voice conversion: Theory, databases and ESD, Speech Communication 2022",
        url="https://github.com/HLTSingapore/Emotional-Speech-Data",
        annotate=annotations.esd,
        names=published.esd,
        sexes=dict.fromkeys(
            ("0001", "0002", "0003", "0007", "0009", *(f"00{n}" for n in range(15, 20))), "female"
        )
        | dict.fromkeys(
            ("0004", "0005", "0006", "0008", "0010", *(f"00{n}" for n in range(11, 15)), "0020"), "male"
        ),
        remarks=(
            "Speakers 0001 to 0010 read Chinese, 0011 to 0020 English.",
            "The text id is the sentence's number within its emotion, with its language: the 350 are the same for all.",
        ),
        sources=(
            "350 parallel sentences: https://github.com/HLTSingapore/Emotional-Speech-Data",
            "one order in all emotions: https://github.com/HLTSingapore/Emotional-Speech-Data/issues/3",
            "sexes, as in the release's ReadMe.txt: https://huggingface.co/datasets/jspaulsen/esd",
        ),
    ),
    Corpus(
        key="emovo",
        title="EMOVO",
        pattern=r"(?P<label>neu|dis|gio|pau|rab|sor|tri)-(?P<speaker>(?P<sex>[fm])[1-3])-(?P<text>[a-z]\d)",
        examples=("f2/gio-f2-b2.wav",),
        labels=words(
            neu="neutro",
            dis="disgusto",
            gio="gioia",
            pau="paura",
            rab="rabbia",
            sor="sorpresa",
            tri="tristezza",
        ),
        counts=dict.fromkeys(("neu", "dis", "gio", "pau", "rab", "sor", "tri"), 84),
        num_files=588,
        num_speakers=6,
        hours=0.5,
        languages=("Italian",),
        licence="not stated (nkululeko gives CC BY-NC-SA 4.0)",
        citation="Costantini et al., EMOVO Corpus: an Italian Emotional Speech Database, LREC 2014",
        url="http://voice.fub.it/activities/corpora/emovo/index.html",
        names=published.emovo,
    ),
    Corpus(
        key="subesco",
        title="SUBESCO, SUST Bangla Emotional Speech Corpus",
        # F_02_MONIKA_S_2_SURPRISE_3] is released with its bracket.
        pattern=r"(?P<speaker>(?P<sex>[FM])_\d\d)_[A-Z]+_(?P<text>S_\d+)_"
        r"(?P<label>ANGRY|DISGUST|FEAR|HAPPY|NEUTRAL|SAD|SURPRISE)_\d\]?",
        examples=("F_10_FAHMEE_S_6_FEAR_5.wav",),
        labels=words(
            {word: word for word in ("ANGRY", "DISGUST", "FEAR", "HAPPY", "NEUTRAL", "SAD", "SURPRISE")}
        ),
        counts=dict.fromkeys(("ANGRY", "DISGUST", "FEAR", "HAPPY", "NEUTRAL", "SAD", "SURPRISE"), 1000),
        num_files=7000,
        num_speakers=20,
        hours=7.68,
        languages=("Bangla",),
        licence="CC BY 4.0",
        citation="Sultana et al., SUST Bangla Emotional Speech Corpus (SUBESCO), PLOS ONE 2021",
        url="https://zenodo.org/records/4526477",
        remarks=("44.1 and 48 kHz mixed.",),
    ),
    Corpus(
        key="cafe",
        title="CaFE, Canadian French Emotional speech dataset",
        pattern=r"(?P<speaker>0\d|1[0-2])-(?P<label>[CDJNPST])-(?P<intensity>[12])-(?P<text>[1-6])",
        examples=("CaFE_48k/Peur/Fort/12-P-2-5.wav",),
        labels=words(C="Colère", D="Dégoût", J="Joie", N="Neutre", P="Peur", S="Surprise", T="Tristesse"),
        intensities={"1": "faible", "2": "fort"},
        counts=dict.fromkeys("CDJPST", 144) | {"N": 72},
        num_files=936,
        num_speakers=12,
        hours=1.2,
        languages=("French (Canada)",),
        licence="CC BY-NC-SA 4.0",
        citation="Gournay et al., A Canadian French Emotional Speech Dataset, ACM MMSys 2018",
        url="https://zenodo.org/records/1478765",
        sexes=odd_male(12),
        names=published.cafe,
        remarks=("Released at 48 kHz (wav) and 192 kHz (aiff): keep one of the two.",),
    ),
    Corpus(
        key="urdu",
        title="URDU, Urdu-language speech emotion dataset",
        pattern=r"(?P<speaker>S(?P<sex>[FM])\d+)_F\d+_(?P<label>[AHNS])\d+",
        examples=("Angry/SM1_F10_A010.wav",),
        labels=words(A="Angry", H="Happy", N="Neutral", S="Sad"),
        counts=dict.fromkeys("AHNS", 100),
        num_files=400,
        num_speakers=29,
        hours=0.3,
        languages=("Urdu",),
        licence="for research",
        citation="Latif et al., Cross Lingual Speech Emotion Recognition: Urdu vs. Western Languages, FIT 2018",
        url="https://github.com/siddiquelatif/urdu-dataset",
        remarks=("The README speaks of 38 speakers; the names tell 29 apart.",),
    ),
    Corpus(
        key="jl-corpus",
        title="JL-Corpus",
        pattern=r"(?P<speaker>(?P<sex>female|male)[12])_(?P<label>[a-z]+)_(?P<text>\d+)[ab]_(?P<session>[12])",
        examples=("male2_concerned_6b_1.wav",),
        labels=words({word: word for word in _JL_LABELS}),
        counts=dict.fromkeys(_JL_LABELS, 240),
        num_files=2400,
        num_speakers=4,
        hours=1.4,
        languages=("English (New Zealand)",),
        licence="CC0-1.0",
        citation="James et al., An Open Source Emotional Speech Corpus for Human Robot Interaction Applications, "
        "Interspeech 2018",
        url="https://www.kaggle.com/datasets/tli725/jl-corpus",
    ),
    Corpus(
        key="oreau",
        title="Oréau, French emotional speech database",
        pattern=r"(?P<speaker>\d\d)(?P<text>[a-z]\d\d(?P<label>[CDJNPST]))[a-z]?",
        examples=("OréauFR_02/f/sessj/10a02Ja.wav",),
        labels=words(C="colère", D="dégoût", J="joie", N="neutre", P="peur", S="surprise", T="tristesse"),
        counts={"N": 70, "C": 67, "D": 67, "J": 62, "S": 62, "T": 55, "P": 51},
        num_files=434,
        num_speakers=32,
        hours=0.3,
        languages=("French",),
        licence="CC BY 4.0, as CAMEO lists it",
        citation="Kerkeni et al., French emotional speech database - Oréau, Zenodo 2020",
        url="https://zenodo.org/records/4405783",
        sexes={
            f"{speaker:02}": "female" if speaker in (10, 11, 13, 21, 24, 37, 42) else "male"
            for speaker in (*range(7, 15), 16, *range(18, 34), *range(36, 43))
        },
        remarks=(
            "The second of two versions: the 434 of 502 files that listeners recognised.",
            "Sentences were written for one emotion each: the text id is the number with the emotion's letter.",
        ),
        sources=(
            "names, numbers, sexes: https://github.com/emo-box/EmoBox/blob/main/data/oreau/oreau.jsonl",
            "sentences, versions: https://github.com/felixbur/nkululeko/blob/main/data/oreau2/README.md",
            "licence: https://huggingface.co/datasets/amu-cai/CAMEO",
        ),
    ),
    Corpus(
        key="mesd",
        title="MESD, Mexican Emotional Speech Database",
        pattern=r"(?P<label>Anger|Disgust|Fear|Happiness|Neutral|Sadness)_(?:(?P<sex>[FM])|C)_[AB]_(?P<text>.+)",
        examples=("Anger_F_A_tarde.wav",),
        labels=words(
            {word: word for word in ("Anger", "Disgust", "Fear", "Happiness", "Neutral", "Sadness")}
        ),
        counts=dict.fromkeys(("Disgust", "Fear", "Happiness", "Sadness"), 144)
        | {"Anger": 143, "Neutral": 143},
        num_files=862,
        hours=0.2,
        languages=("Spanish (Mexico)",),
        licence="CC BY 4.0",
        citation="Duville et al., The Mexican Emotional Speech Database (MESD), IEEE EMBC 2021",
        url="https://data.mendeley.com/datasets/cy34mh68j9/5",
        remarks=(
            "Names don't tell the speakers apart (F, M or a child), so speakers can't be held out.",
            "Single words, from 0.2 seconds.",
            "The paper counts 864; two of them aren't in the release.",
        ),
        sources=("numbers per label: https://github.com/emo-box/EmoBox/blob/main/data/mesd/mesd.jsonl",),
    ),
    Corpus(
        key="nemo",
        title="nEMO, emotional speech in Polish",
        pattern=r"(?P<speaker>[A-Z]{2}\d)_(?P<label>anger|fear|happiness|neutral|sadness|surprised)_(?P<text>\d+)",
        examples=("samples/KS0_surprised_26.wav",),
        labels=words(
            {word: word for word in ("anger", "fear", "happiness", "neutral", "sadness", "surprised")}
        ),
        counts={
            **{"anger": 749, "fear": 736, "happiness": 749, "neutral": 809, "sadness": 769, "surprised": 669},
        },
        num_files=4481,
        num_speakers=9,
        hours=3.07,
        languages=("Polish",),
        licence="CC BY-NC-SA 4.0",
        citation="Christop, nEMO: Dataset of Emotional Speech in Polish, LREC-COLING 2024",
        url="https://huggingface.co/datasets/amu-cai/nEMO",
        sexes=dict.fromkeys(("EB0", "IC0", "KD0", "MK0"), "female")
        | dict.fromkeys(("KS0", "MP0", "SM0", "TP0", "WR0"), "male"),
        sources=(
            "names: https://github.com/amu-cai/nEMO",
            "sexes, and one sentence by each number: https://github.com/amu-cai/nEMO/blob/main/data.tsv",
            "numbers per label: https://github.com/poleval/2025-speech-emotion",
        ),
    ),
    Corpus(
        key="turev-db",
        title="TurEV-DB, Turkish Emotion-Voice Database",
        pattern=r"(?P<label>Angry|Calm|Happy|Sad)/(?P<speaker>\d{4})_[a-z]+_(?P<text>\w+)",
        examples=("Sound Source/Calm/1984_sk_eger.wav",),
        labels=words(Angry="Angry", Calm="Calm", Happy="Happy", Sad="Sad"),
        counts={"Angry": 487, "Calm": 408, "Happy": 357, "Sad": 483},
        num_files=1735,
        num_speakers=6,
        hours=0.5,
        languages=("Turkish",),
        licence="CC BY-NC-ND 4.0",
        citation="Canpolat et al., Turkish Emotion Voice Database (TurEV-DB), SLTU-CCURL 2020",
        url="https://github.com/Xeonen/TurEV-DB",
        remarks=("Single words. The label is the folder.",),
        sources=("names and licence: https://github.com/Xeonen/TurEV-DB",),
    ),
)


def _variant(key: str, of: str, **changes: Any) -> Corpus:
    """Return another reading of a corpus: its files, otherwise selected or labelled."""
    entry = next(entry for entry in _ENTRIES if entry.key == of)
    return dataclasses.replace(entry, key=key, variant_of=of, **changes)


_VARIANTS = (
    _variant(
        "emodb-2",
        "emodb",
        title="Emo-DB 2.0, with the 281 utterances that few listeners agreed on",
        counts={},
        num_files=816,
        hours=0.0,
        names=None,
        remarks=("laryngo/ repeats every name with the signal of a laryngograph, and is skipped.",),
    ),
    _variant(
        "shemo-2838",
        "shemo",
        title="ShEMO, the 2838 files that its shemo.json lists",
        counts={"A": 1034, "N": 1018, "S": 360, "W": 199, "H": 198, "F": 29},
        num_files=2838,
        hours=3.3,
        annotate=annotations.shemo_listed,
        remarks=("Needs shemo.json of github.com/pariajm/sharif-emotional-speech-dataset in the folder.",),
    ),
    _variant(
        "shemo-corrected",
        "shemo",
        title="ShEMO, with 163 labels corrected (arXiv 2211.09956)",
        counts={"N": 1160, "A": 1042, "S": 361, "H": 203, "W": 202, "F": 32},
        annotate=annotations.shemo_corrected,
        remarks=(
            "Needs modified_shemo.json or mShEMO.json of github.com/aliyzd95/modified_shemo in the folder.",
        ),
    ),
    _variant(
        "crema-d-voice",
        "crema-d",
        title="CREMA-D, labelled by what most listeners heard in the voice",
        counts={},
        num_files=0,
        annotate=annotations.crema_d_voices,
        remarks=("Needs processedResults/summaryTable.csv in or beside the folder; ties are left out.",),
    ),
    _variant(
        "iemocap-4",
        "iemocap",
        title="IEMOCAP, four classes: anger, sadness, neutral, and happiness with excitement",
        labels={
            **words(ang="angry", hap="happy", sad="sad", neu="neutral"),
            "exc": ("excited", "happiness"),
        },
        counts={"neu": 1708, "ang": 1103, "sad": 1084, "exc": 1041, "hap": 595},
        num_files=5531,
        hours=7.0,
    ),
)
CORPORA: Mapping[str, Corpus] = MappingProxyType({entry.key: entry for entry in _ENTRIES + _VARIANTS})
