"""What the user can set for depth guide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lib_attn.schema import OF_STEPS, Technique, param

#: Of learned files with blocks that draw maps.
KIND = "depth"


@dataclass(frozen=True)
class DepthGuide(Technique):
    """A depth or normal map drawn by other Out blocks of the same checkpoint; the picture follows it."""

    name: ClassVar[str] = "depth_guide"
    label: ClassVar[str] = "Depth guide"
    blocks: ClassVar[str] = "auto"  # what is guided is the predicted picture, so there are none to choose
    shown_by: ClassVar[str] = "Underdrawing"
    draws_first: ClassVar[bool] = True
    release: ClassVar[int] = 7
    about: ClassVar[str] = (
        "An underdrawing: first a map of the scene's depth from the same prompt and seed, by the loaded checkpoint with "
        "other Out blocks; then the picture, which follows it. The map can be looked at, kept, and drawn anew."
    )

    enabled: bool = param(False, "Depth guide", "Draw a map first and have the picture follow it.")
    file: str = param("", "Map blocks", "Learned file by which a checkpoint of its family draws maps: other weights for the last half of the U-Net, its Out blocks.", file=KIND)
    strength: float = param(1.0, "Strength", "How hard the picture is held to the map. 0: it is drawn as without a map.", 0.0, 4.0, 0.05)
    guide: str = param("predicted picture", "Guided by", "Predicted picture: what the model is heading for is moved towards the map. First steps: it is mixed with the map, whose greys stay. ControlNet: a free unit of that extension gets the map.", choices=("predicted picture", "first steps", "ControlNet"))
    until: float = param(0.8, "Guided until", "When in the course of the steps the picture is left to itself.", 0.0, 1.0, 0.01, unit="share of the steps", reads=OF_STEPS, advanced=True)
    map_prompt: str = param("", "Map prompt", "What the map is drawn from; {prompt} stands for the picture's prompt. Empty: the picture's prompt.", advanced=True)
    map_steps: int = param(5, "Map steps", "Steps of the map; a map has no fine detail to wait for.", 1, 150, unit="steps", reads=(1.0, "steps"), advanced=True)
    map_cfg: float = param(4.0, "Map CFG scale", "How closely the map follows its prompt.", 1.0, 30.0, 0.5, advanced=True)
    map_seed: int = param(0, "New map", "Added to the seed of the map alone: another number draws another map.", 0, 9999, advanced=True)
    show: bool = param(True, "Show the map", "Put the maps into the gallery, behind the pictures.", advanced=True)
    save: bool = param(False, "Save the map", "Write the maps beside the pictures, where the pictures are saved.", advanced=True)
    own_map: str = param("", "Your own map", "A picture that is used as the map in place of drawing one; near is white. Where its proportions are not the picture's, its middle is used.", picture=True, transient=True, advanced=True, since=8)
    map_hash: str = param("", "Use this map", "Hash of a map that was drawn or given here earlier (it stands in the picture's text), used in place of drawing one; empty: one is drawn.", latest="Use the last map", advanced=True, since=8)
    normals: bool = param(False, "As normals", "A depth map is shown, saved and given to ControlNet as normals, worked out by geometry.", advanced=True, since=8)

    @property
    def needs_file(self) -> bool:
        """Without the file nothing can be drawn, or the predicted picture cannot be read."""
        return self.guide == "predicted picture" or not (self.own_map or self.map_hash)

    @property
    def lacks_file(self) -> bool:
        return self.needs_file and not self.file

    def prompt_of(self, prompt: str) -> str:
        """What the map of a picture of `prompt` is drawn from."""
        return self.map_prompt.replace("{prompt}", prompt) or prompt
