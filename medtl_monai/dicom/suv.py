"""PET activity to SUV by body weight, after the QIBA vendor-neutral rule; nothing is guessed.

Only the case that the standard fully determines is handled: Units BQML, attenuation and decay corrected, decay
corrected to the start of acquisition or to administration.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from pydicom.dataset import Dataset

from medtl_monai.dicom.elements import Elements
from medtl_monai.dicom.header import Header
from medtl_monai.errors import DicomError

_MEND = "Export the original PET series with all its attributes, or keep Bq/ml"
_DAY = timedelta(days=1)


def suv_factor(dataset: Dataset, header: Header) -> float:
    """Return the factor from Bq/ml to SUVbw in g/ml.

    Args:
        dataset: One file of the series.
        header: Its header.

    Raises:
        DicomError: An attribute is missing or the corrections are not those the rule asks for.
    """
    elements = Elements(dataset, header.path)
    if header.units == "GML":
        kind = elements.code("SUVType") or "BW"
        if kind == "BW":
            return 1.0
        raise _refusal(header, "SUVType", f"is {kind}, not BW")
    if header.units != "BQML":
        raise _refusal(header, "Units", f"is {header.units or 'missing'}, not BQML")
    corrected = elements.codes("CorrectedImage")
    for correction in ("ATTN", "DECY"):
        if correction not in corrected:
            raise _refusal(header, "CorrectedImage", f"does not contain {correction}")
    weight = _positive(elements, "PatientWeight", header)
    tracer = _tracer(elements, header)
    dose = _positive(tracer, "RadionuclideTotalDose", header)
    decay = elements.code("DecayCorrection")
    if decay == "ADMIN":
        return weight * 1000 / dose
    if decay != "START":
        raise _refusal(header, "DecayCorrection", f"is {decay or 'missing'}, neither START nor ADMIN")
    half_life = _positive(tracer, "RadionuclideHalfLife", header)
    elapsed = (_scan_start(elements, header) - _injection(elements, tracer, header)).total_seconds()
    if not 0 <= elapsed < _DAY.total_seconds():
        raise _refusal(header, "RadiopharmaceuticalStartTime", f"lies {elapsed:.0f} s before the scan")
    return float(weight * 1000 / (dose * 2 ** (-elapsed / half_life)))


def _refusal(header: Header, keyword: str, what: str) -> DicomError:
    return DicomError(f"no SUV: {keyword} {what}", where=f"{header.path}, {keyword}", mend=_MEND)


def _positive(elements: Elements, keyword: str, header: Header) -> float:
    value = elements.number(keyword)
    if value is None or value <= 0:
        raise _refusal(header, keyword, "is missing" if value is None else f"is {value:g}")
    return value


def _tracer(elements: Elements, header: Header) -> Elements:
    items = elements.items("RadiopharmaceuticalInformationSequence")
    if len(items) != 1:
        raise _refusal(header, "RadiopharmaceuticalInformationSequence", f"has {len(items)} items")
    return Elements(items[0], header.path)


def _scan_start(elements: Elements, header: Header) -> datetime:
    """SeriesDate and SeriesTime, unless post-processing moved them behind the acquisition."""
    series = _moment(elements, header, "SeriesDate", "SeriesTime")
    acquisition = _moment(elements, header, "AcquisitionDate", "AcquisitionTime")
    if series <= acquisition:
        return series
    raise _refusal(header, "SeriesTime", "is later than AcquisitionTime: the series was written afterwards")


def _injection(elements: Elements, tracer: Elements, header: Header) -> datetime:
    stamp = tracer.code("RadiopharmaceuticalStartDateTime")
    if stamp:
        return _parse(stamp.split("+")[0].split("-")[0], header, "RadiopharmaceuticalStartDateTime")
    time = tracer.code("RadiopharmaceuticalStartTime")
    if not time:
        raise _refusal(header, "RadiopharmaceuticalStartTime", "is missing")
    start = _scan_start(elements, header)
    moment = _parse(f"{start:%Y%m%d}{time}", header, "RadiopharmaceuticalStartTime")
    # The time has no date: an injection "after" the scan was before midnight.
    return moment if moment <= start else moment - _DAY


def _moment(elements: Elements, header: Header, date: str, time: str) -> datetime:
    for keyword in (date, time):
        if not elements.code(keyword):
            raise _refusal(header, keyword, "is missing")
    return _parse(elements.code(date) + elements.code(time), header, time)


def _parse(text: str, header: Header, keyword: str) -> datetime:
    whole, _, fraction = text.partition(".")
    try:
        moment = datetime.strptime(whole.ljust(14, "0"), "%Y%m%d%H%M%S")
        return moment + timedelta(seconds=float(f"0.{fraction}") if fraction else 0.0)
    except ValueError as error:
        raise _refusal(header, keyword, "is not a time") from error
