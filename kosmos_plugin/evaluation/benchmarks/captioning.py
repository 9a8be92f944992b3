"""Image captioning (§4.1): COCO and Flickr30k, in Karpathy's splits.

Release: Karpathy's `caption_datasets.zip` (cs.stanford.edu/people/karpathy/deepimagesent), and the images:

    coco/dataset_coco.json
        {"images": [{"filepath", "filename", "split", "cocoid", "sentences": [{"raw"}, …]}, …]}
    coco/{train2014,val2014}/COCO_val2014_000000000042.jpg
    flickr30k/dataset_flickr30k.json
        the same without "filepath" and "cocoid"
    flickr30k/flickr30k-images/1000092795.jpg

COCO's splits are train (82,783 images of train2014) and restval (30,504), val (5,000) and test (5,000) of val2014; the
paper's training set of 113,287 is train and restval. Flickr30k's are train (29,000), val (1,014) and test (1,000).

A caption is the continuation of "An image of", without these words. A demonstration has the first caption of its image
as it was written, with capital letter and full stop, as in OpenFlamingo; the metrics ignore both.
"""

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from kosmos_plugin.data.documents import Image
from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer, Benchmark, Item, Scores
from kosmos_plugin.evaluation.files import field, image_file, read_json, whole_number
from kosmos_plugin.evaluation.metrics.captions import caption_metrics, check_caption_tools
from kosmos_plugin.evaluation.requests import Generate, Prompt, Request, question

PROMPT = "An image of"
BEAM = 5
TRAINING_SPLITS = ("train", "restval")


@dataclass(frozen=True)
class Picture(Item):
    """An image. The reference is the list of its captions."""

    image: Image

    @property
    def demonstration(self) -> Prompt:
        caption = " ".join(self.reference[0].split())  # some have line breaks
        return question(f"{PROMPT} {caption}", self.image)


class Captioning(Benchmark[Picture]):
    """Captioning in one of Karpathy's splits. A subclass finds the images of its release."""

    section = "4.1"
    splits = ("test", "val")
    shots = (0, 2, 4, 8)
    few_shot = True

    file: ClassVar[str]  # of the captions and splits

    def items(self) -> list[Picture]:
        return self._read((self.split,))

    def training_items(self) -> list[Picture]:
        return self._read(TRAINING_SPLITS)

    def request(self, item: Picture, demonstrations: Sequence[Picture]) -> Request:
        shown = tuple(demonstration.demonstration for demonstration in demonstrations)
        return Generate(question(PROMPT, item.image), num_beams=BEAM, demonstrations=shown)

    def score(self, items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
        return caption_metrics(items, answers)

    def check_tools(self) -> None:
        check_caption_tools()

    @abstractmethod
    def id_and_image(self, record: Any, where: str) -> tuple[str, Path]:
        """Return an image's id, and its file relative to the release's folder."""

    def _read(self, splits: tuple[str, ...]) -> list[Picture]:
        path = self.folder / self.file
        found = []
        for number, record in enumerate(field(read_json(path), "images", list, str(path)), start=1):
            where = f"{path}, image {number}"
            if field(record, "split", str, where) in splits:
                captions = [field(sentence, "raw", str, where) for sentence in field(record, "sentences", list, where)]
                if not captions:
                    raise UserError(f'{where}: there is no caption in "sentences".')
                name, image = self.id_and_image(record, where)
                found.append(Picture(name, captions, image_file(self.folder / image)))
        return found


class Coco(Captioning):
    """COCO. It also writes a file in COCO's results format, which COCO's tools read with captions_val2014.json.

    COCO's test server measures all of test2014, which is not the paper's test set.
    """

    name = "coco"
    title = "COCO captions"
    release = "coco"
    source = (
        "dataset_coco.json of Karpathy's caption_datasets.zip, and the folders train2014 and val2014 of COCO's images"
    )
    file = "dataset_coco.json"

    def files(self, few_shot: bool) -> list[str]:
        return [self.file, "val2014", *(["train2014"] if few_shot else [])]

    def id_and_image(self, record: Any, where: str) -> tuple[str, Path]:
        image = Path(field(record, "filepath", str, where)) / field(record, "filename", str, where)
        return str(whole_number(record, "cocoid", where)), image

    def submission(self, items: Sequence[Item], answers: Sequence[Answer]) -> tuple[str, str]:
        results = [
            {"image_id": int(item.id), "caption": answer.prediction}
            for item, answer in zip(items, answers, strict=True)
        ]
        return "captions_val2014_kosmos_results.json", json.dumps(results, ensure_ascii=False)


class Flickr30k(Captioning):
    """Flickr30k."""

    name = "flickr30k"
    title = "Flickr30k"
    release = "flickr30k"
    source = "dataset_flickr30k.json of Karpathy's caption_datasets.zip, and Flickr30k's folder flickr30k-images"
    file = "dataset_flickr30k.json"

    def files(self, few_shot: bool) -> list[str]:
        return [self.file, "flickr30k-images"]

    def id_and_image(self, record: Any, where: str) -> tuple[str, Path]:
        name = field(record, "filename", str, where)
        return name, Path("flickr30k-images") / name
