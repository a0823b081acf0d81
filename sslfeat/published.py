"""The published names of corpora whose files are known one by one, so that a missing one can be named."""

import itertools
from collections.abc import Iterable

SAVEE_MEN = ("DC", "JE", "JK", "KL")
SAVEE_SENTENCES = {"a": 15, "d": 15, "f": 15, "h": 15, "n": 30, "sa": 15, "su": 15}

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


def emodb() -> Iterable[str]:
    """Yield the 535 names of Emo-DB 1.x."""
    for group in _EMODB_GOLD.split():
        stem, endings = group.split("=")
        yield from (stem + ending for ending in endings.split("."))


def ravdess(channel: str, emotions: Iterable[str], actors: Iterable[int]) -> Iterable[str]:
    """Yield the audio-only names of RAVDESS: every emotion in two strengths, on two statements, said twice."""
    for actor, emotion in itertools.product(actors, emotions):
        for intensity, statement, repetition in itertools.product(("01", "02"), repeat=3):
            if (emotion, intensity) != ("01", "02"):  # there is no strong neutral
                yield f"03-{channel}-{emotion}-{intensity}-{statement}-{repetition}-{actor:02}"


def banglaser() -> Iterable[str]:
    """Yield the 1467 names of BanglaSER: three sentences, each said three times, of five emotions but for those not neutral."""
    without_neutral = (11, 12, 13, 16, 18, 20, 29)
    actors, three = range(1, 35), ("01", "02", "03")
    acted = every("03-01-{}-{}-{}-{:02}", ("01-01", "02-01", "03-02", "04-02"), three, three, actors)
    neutral = (actor for actor in actors if actor not in without_neutral)
    return itertools.chain(acted, every("03-01-05-01-{}-{}-{:02}", three, three, neutral))


def cafe() -> Iterable[str]:
    """Yield the 936 names of CaFE: six emotions in two strengths, and neutral, on six sentences."""
    strengths = [f"{code}-{strength}" for code in "CDJPST" for strength in (1, 2)]
    return every("{:02}-{}-{}", range(1, 13), [*strengths, "N-1"], range(1, 7))


def esd() -> Iterable[str]:
    """Yield the 35,000 names of ESD: five emotions by twenty speakers, the 350 sentences numbered on."""
    return every("{:04}_{:06}", range(1, 21), range(1, 5 * 350 + 1))


def emovo() -> Iterable[str]:
    """Yield the 588 names of EMOVO: short, long and nonsense sentences and questions in seven emotions."""
    emotions = ("neu", "dis", "gio", "pau", "rab", "sor", "tri")
    sentences = [
        f"{kind}{number}"
        for kind, count in zip("blnd", (3, 4, 5, 2), strict=True)
        for number in range(1, count + 1)
    ]
    return every("{}-{}{}-{}", emotions, "fm", (1, 2, 3), sentences)


def every(form: str, *parts: Iterable[object]) -> Iterable[str]:
    """Yield a name for every combination of its parts."""
    return (form.format(*combination) for combination in itertools.product(*parts))


def savee() -> Iterable[str]:
    """Yield the 480 names of SAVEE, speaker in front."""
    for speaker, (code, count) in itertools.product(SAVEE_MEN, SAVEE_SENTENCES.items()):
        yield from (f"{speaker}_{code}{number:02}" for number in range(1, count + 1))
