"""The gallery: ``make gallery``, or ``python -m docs.gallery_pictures FOLDER``, which keeps the data sets in FOLDER.

Runs the commands of :data:`GALLERY` and takes each picture out of the page that its last command wrote. Finished data
sets are used again. Writes ``docs/gallery/*`` and the page that shows them.
"""

import base64
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent / "gallery"
FIRST = "image-longitudinal generate --model pretrained --preset scans --output datasets/first"
SUBJECT = "image-longitudinal show datasets/first --subject 17 --png subject.png --overwrite"
TRIAL = "image-longitudinal generate --preset trial --output datasets/trial"
OBSERVATIONAL = "image-longitudinal generate --preset observational --output datasets/observational"
SITES = "image-longitudinal generate --preset sites --output datasets/sites"
SIMULATION = "image-longitudinal simulate trial.csv --model one-compartment --subjects 60 --seed 3"
FIT = "image-longitudinal fit trial.csv --model one-compartment --diagonal --output trial-fit"


class Picture(NamedTuple):
    """A picture: its file's name and title, what it shows, the commands, and where the last of them put it.

    ``page`` is an HTML page with the figure whose alternative text begins with ``alt``, or the picture itself.
    """

    name: str
    title: str
    text: str
    commands: tuple[str, ...]
    page: str
    alt: str = ""


GALLERY = (
    Picture("pairs", "Images above outcomes",
            "The same patients at the strongest and the weakest association: one image, two courses.",
            (FIRST,), "datasets/first/report.html", "Images of subjects"),
    Picture("pretrained", "Images of the bundled models",
            "64x64 above 128x128, none chosen.",
            ("python -m docs.pretrained_pictures pretrained.png",), "pretrained.png"),
    Picture("traversal", "What latent dimensions do",
            "Each row moves one entry of z from -3 to 3; all else, the noise included, stays.",
            (FIRST,), "datasets/first/report.html", "Rows of images"),
    Picture("noise", "From noise to image",
            "Eight steps of a solver that keeps the spread of fine details.",
            (FIRST,), "datasets/first/report.html", "Animation"),
    Picture("subject", "One patient",
            "The image, and the outcomes at five levels of association.",
            (FIRST, SUBJECT), "subject.png"),
    Picture("benefit", "Who benefits",
            "A trial with arms that are equal on average: whom the new arm changes most and least, with both courses.",
            (TRIAL,), "datasets/trial/report.html", "Images of two subjects"),
    Picture("effects", "Effects that differ",
            "The same trial: what the new arm does to each patient. Images tell in part who gains (colours).",
            (TRIAL,), "datasets/trial/report.html", "Histogram of individual effects"),
    Picture("propensity", "Confounding",
            "Those with the worse prognosis are treated more often; the overlap is a number of the design.",
            (OBSERVATIONAL,), "datasets/observational/report.html", "Propensities in each arm"),
    Picture("sites", "Scanners that differ",
            "Images of four sites, whose scanners differ in gain, contrast, blur, speckle and offset.",
            (SITES,), "datasets/sites/report.html", "Images of each site"),
    Picture("importance", "What is readable of z",
            "Each entry of the latent vector: how much it changes the image, and how well it is read back.",
            (FIRST,), "datasets/first/report.html", "Three panels of bars"),
    Picture("vpc", "A population fit",
            "Visual predictive check: percentiles of the data over those that the fitted model simulates.",
            (SIMULATION, FIT), "trial-fit/report.html", "Percentiles of the observations"),
    Picture("individual", "Patients and their fits",
            "Twelve patients: what was observed, the course of the typical patient, and each one's own.",
            (SIMULATION, FIT), "trial-fit/report.html", "Observations of up to twelve"),
)  # fmt: skip


def main(folder: str) -> None:
    """Run every command once, and write pictures and page."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    done: set[str] = set()
    for picture in GALLERY:
        for command in picture.commands:
            if command not in done:
                run(command, place)
                done.add(command)
        suffix, content = taken(place / picture.page, picture.alt)
        (HERE / f"{picture.name}.{suffix}").write_bytes(content)
        print(f"{picture.name}.{suffix}: {len(content) / 1000:.0f} kB")
    (HERE / "index.md").write_text(page(), encoding="utf-8")


def run(command: str, place: Path) -> None:
    """Run a command line of the gallery in a folder; what exists there already is no fault."""
    print(f"$ {command}", flush=True)
    program, *arguments = command.split()
    binaries = Path(sys.executable).parent
    words = [sys.executable if program == "python" else str(binaries / program), *arguments]
    if "simulate" in arguments and (place / "trial.csv").exists():
        return
    project = str(Path(__file__).resolve().parents[1])  # for the module of a picture
    subprocess.run(words, cwd=place, check=True, env=os.environ | {"PYTHONPATH": project})


def taken(path: Path, alt: str) -> tuple[str, bytes]:
    """The ending of a picture's file name, and its bytes."""
    if path.suffix != ".html":
        return path.suffix[1:], path.read_bytes()
    shown = re.findall(r'src="data:image/([\w+]+);base64,([^"]+)" alt="([^"]*)"', path.read_text(encoding="utf-8"))
    for kind, encoded, text in shown:
        if text.startswith(alt):
            return kind.removesuffix("+xml"), base64.b64decode(encoded)
    sys.exit(f"{path} has no figure whose alternative text begins with {alt!r}: {[text for *_, text in shown]}")


def page() -> str:
    """The page of the gallery, from the pictures that exist."""
    lines = [
        "# Gallery", "",
        "Twelve pictures, each with the commands that made it. Most are figures of the report that the last command",
        "wrote; `make gallery` runs all of them again.",
    ]  # fmt: skip
    for picture in GALLERY:
        (file,) = HERE.glob(f"{picture.name}.*")
        lines += [
            "",
            f"## {picture.title}",
            "",
            picture.text,
            "",
            f"![{picture.title}: {picture.text}]({file.name})",
            "",
        ]
        lines += ["```sh", *(wrapped(command) for command in picture.commands), "```"]
    return "\n".join([*lines, ""])


def wrapped(command: str) -> str:
    """A command on lines that fit a page."""
    lines = [""]
    for word in command.split():
        if len(lines[-1]) + len(word) > 100:
            lines.append("   ")
        lines[-1] += f" {word}" if lines[-1] else word
    return " \\\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "build/gallery-work")
