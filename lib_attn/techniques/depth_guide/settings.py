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
    file: str = param("", "Map blocks", "Learned file with which the loaded checkpoint draws maps; it has to be made for that kind of model. Empty: the only file that fits is taken.", file=KIND)
    strength: float = param(1.0, "Strength", "How hard the picture is held to the map; the harder, the further things move. 0: it is drawn as without a map.", 0.0, 4.0, 0.05)
    guide: str = param("predicted picture", "Guided by", "Predicted picture: in each step, the picture as it will come out is moved towards the map. First steps: the map itself is mixed into them, and stays in the picture where that lasts. ControlNet: a free unit of that extension gets the map.", choices=("predicted picture", "first steps", "ControlNet"))
    until: float = param(0.8, "Guided until", "From this point of the steps on, the picture follows the map no longer.", 0.0, 1.0, 0.01, unit="share of the steps", reads=OF_STEPS, advanced=True)
    map_prompt: str = param("", "Map prompt", "Prompt of the map, in which {prompt} stands for the picture's prompt. Empty: the same prompt as the picture's.", advanced=True)
    map_steps: int = param(5, "Map steps", "Steps of the map; a map has no fine detail to wait for.", 1, 150, unit="steps", reads=(1.0, "steps"), advanced=True)
    map_cfg: float = param(4.0, "Map CFG scale", "How closely the map follows its prompt.", 1.0, 30.0, 0.5, advanced=True)
    map_seed: int = param(0, "New map", "Each number draws another map for the picture, which keeps its own seed.", 0, 9999, advanced=True)
    show: bool = param(True, "Show the map", "Put the maps into the gallery, behind the pictures.", advanced=True)
    save: bool = param(False, "Save the map", "Write the maps beside the pictures, where the pictures are saved.", advanced=True)
    own_map: str = param("", "Your own map", "A picture that is used as the map in place of drawing one; near is white. Where its proportions are not the picture's, its middle is used.", picture=True, transient=True, advanced=True, since=8)
    map_hash: str = param("", "Use this map", "To use a map again that was drawn or given here: its hash, which stands in the picture's text as Attn map hashes. Empty: a map is drawn.", latest="Use the last map", advanced=True, since=8)
    normals: bool = param(False, "As normals", "The depth map is turned into a normal map, which tells the way that surfaces face; that is shown, saved and given to ControlNet.", advanced=True, since=8)

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
