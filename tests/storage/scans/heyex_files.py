"""Files of Heidelberg's kinds, written by eyepy's description of the formats; a real scanner's file is not at hand."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

INFRARED = 77  # the grey of the infrared image, which is no B-scan
BSCAN, OTHER = 35652097, 33620481  # types of images in .E2E files
Stack = NDArray[np.uint8]  # (B-scans, H, W)


def write_vol(path: Path, stack: Stack, patient: str = "MRN 12/345", pattern: int = 3, pad: int = 0) -> bytes:
    """A .vol file; ``pad``: bytes more in the header of each B-scan."""
    from construct import Int64ul, Struct
    from eyepy.core.utils import to_vol_intensity
    from eyepy.io.he.vol_reader import vol_format

    # eyepy 0.21 cannot build this field, nor can its HeVolWriter therefore: its encoder gives a float.
    fields = ["exam_time" / Int64ul if field.name == "exam_time" else field for field in vol_format.subcons]

    count, rows, columns = stack.shape
    day, own = "2020-01-02T00:00:00", 256 + 2 * 4 * columns + pad
    scans = [
        {
            "bscan_hdr_size": own, "start_x": 0.0, "start_y": 0.1 * i, "end_x": 5.0, "end_y": 0.1 * i, "num_seg": 2,
            "quality": 30.0, "shift": 0, "iv_transformation": [0.0] * 6,
            "layer_segmentations": np.zeros((2, columns), np.float32), "data": to_vol_intensity(stack[i]),
        }
        for i in range(count)
    ]  # fmt: skip
    data: bytes = Struct(*fields).build({
        "size_x": columns, "size_y": rows, "n_bscans": count, "scale_x": 0.01, "scale_y": 0.004, "distance": 0.1,
        "size_x_slo": 128, "size_y_slo": 96, "scale_x_slo": 0.05, "scale_y_slo": 0.05, "scan_position": "OD",
        "exam_time": 132_223_968 * 10**9, "scan_pattern": pattern, "bscan_hdr_size": own, "id": "1",
        "reference_id": "1",
        "patient_id": patient, "dob": day, "visit_date": day, "grid_type": 0, "grid_offset": 0, "grid_type1": 0,
        "grid_offset1": 0, "prog_id": "1", "localizer": np.full((96, 128), INFRARED, np.uint8), "bscans": scans,
    })  # fmt: skip
    path.write_bytes(data)
    return data


def write_e2e(
    path: Path, series: list[Stack], patients: tuple[str, ...] = ("MRN 12/345",), patterns: tuple[int, ...] = ()
) -> bytes:
    """An .E2E file: an infrared image and the B-scans of each series, in chunks of 16 records."""
    from eyepy.io.he import e2e_format as e2e

    records: list[tuple[int, int, int, bytes]] = []  # series, slice, type, content
    for patient in patients:
        person = e2e.Type9(firstname="Jane", surname="Doe", birthdate=0, sex="F", patient_id=patient)
        records.append((-1, -1, 9, e2e.type9_format.build(person)))
    for number, stack in enumerate(series):
        _, rows, columns = stack.shape
        header = np.array([0, OTHER, 64 * 64, 64, 64], "<u4").tobytes()
        records.append((number, -1, 1073741824, header + bytes([INFRARED]) * 64 * 64))
        for place in reversed(range(len(stack))):
            meta = bytearray(428)
            meta[64:76] = np.array([len(stack), place, dict(enumerate(patterns)).get(number, 3)], "<u4").tobytes()
            records.append((number, 2 * place, 10004, bytes(meta)))
            image = np.array([2 * rows * columns, BSCAN, rows * columns, rows, columns], "<u4").tobytes()
            records.append((number, 2 * place, 1073741824, image + codes(stack[place]).tobytes()))
    out = bytearray(e2e.version_format.build(e2e.Version(name="CMDb", version=100, unknown0=[0] * 10)))
    first = e2e.Header(magic2="MDbMDir", version=100, unknown0=[0] * 10, num_entries=0, current=0, prev=0, unknown1=0)
    out += e2e.header_format.build(first)
    for begin in range(0, len(records), 16):
        some = records[begin : begin + 16]
        head = e2e.Header(
            magic2="MDbDir", version=100, unknown0=[0] * 10, num_entries=16, current=len(out), prev=0, unknown1=0
        )
        start, folders, data = len(out) + 52 + 16 * 44, bytearray(), bytearray()
        for of, place, kind, content in some:
            shared = {
                "patient_id": 5, "study_id": 1 if of >= 0 else -1, "series_id": of, "slice_id": place, "ind": 0,
                "size": len(content), "type": e2e.TypesEnum(kind), "unknown0": 0, "unknown1": 0, "unknown3": 0,
            }  # fmt: skip
            at = start + len(data)
            folder = e2e.FolderHeader(pos=0, start=at, **shared)
            folders += e2e.folderheader_format.build(folder)
            container = e2e.ContainerHeader(magic3="MDbData", header_pos=0, pos=at, unknown2=0, **shared)
            data += e2e.containerheader_format.build(container) + content
        out += e2e.header_format.build(head) + folders.ljust(16 * 44, b"\0") + data
    path.write_bytes(out)
    return bytes(out)


def codes(scan: Stack) -> NDArray[np.uint16]:
    """The codes (H, W) of which Heidelberg's float, shown, comes nearest to grey levels."""
    from eyepy.core.utils import from_e2e_intensity
    from eyepy.io.he.e2e_format import Bscan

    shown = from_e2e_intensity(Bscan.LUT.reshape(1, -1).copy())[0].astype(int)
    levels, first = np.unique(shown, return_index=True)
    nearest = np.abs(levels[None] - np.arange(256)[:, None]).argmin(1)
    return first[nearest].astype(np.uint16)[scan]
