"""A run folder as 3D files: viser recordings, point clouds (.ply), meshes with cameras (.glb), HTML, and CSV.

Nothing here knows torch, the models or the page: the input is the folder that a run leaves (``video.mp4``,
``geometry.npz``, ``rewards.json``, and ``error_maps.npz`` where it was written), the output is files. Importing this
package costs numpy only; viser, trimesh and PyAV are imported by the functions that need them.
"""

from scene_export.point_files import export_glb, export_ply
from scene_export.recording import export_html, record_all_colours, record_run
from scene_export.run_scene import RunScene, SceneReadError, read_scene
from scene_export.tables import rewards_csv

__all__ = [
    "RunScene",
    "SceneReadError",
    "export_glb",
    "export_html",
    "export_ply",
    "read_scene",
    "record_all_colours",
    "record_run",
    "rewards_csv",
]
