"""A run's scene for other programs: every valid point as .ply, the scene with its cameras as .glb."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scene_export.colouring import colour_scene
from scene_export.run_scene import RunScene, read_scene
from scene_export.sampling import even_subset, shown_pixels

if TYPE_CHECKING:
    from trimesh.path import Path3D

GLB_POINTS = 120_000
"""Cap of points in a .glb, which web viewers load whole."""

GLTF_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
"""glTF has y up and cameras that look along −z."""

_PLY_VERTEX = np.dtype(
    [
        ("x", "<f4"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("red", "u1"),
        ("green", "u1"),
        ("blue", "u1"),
        ("frame", "<u2"),
    ]
)
_PLY_TYPES = {"<f4": "float", "|u1": "uchar", "<u2": "ushort"}


def export_ply(folder: Path, *, out: Path | None = None) -> Path:
    """Every valid point of every frame as binary .ply: world coordinates (OpenCV axes), colour and frame number."""
    scene = read_scene(folder)
    vertices = np.empty(int(scene.valid.sum()), dtype=_PLY_VERTEX)
    points, colours = scene.points[scene.valid], _natural_colours(scene)[scene.valid]
    for axis, name in enumerate(("x", "y", "z")):
        vertices[name] = points[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        vertices[name] = colours[:, channel]
    vertices["frame"] = np.nonzero(scene.valid)[0]
    properties = [f"property {_PLY_TYPES[_PLY_VERTEX[name].str]} {name}" for name in _PLY_VERTEX.names or ()]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment world = camera of frame 0; OpenCV axes: x right, y down, z forward",
        f"element vertex {len(vertices)}",
        *properties,
        "end_header",
    ]
    path = out or folder / "scene.ply"
    path.write_bytes("\n".join(header).encode("ascii") + b"\n" + vertices.tobytes())
    return path


def export_glb(folder: Path, *, out: Path | None = None) -> Path:
    """All frames' points fused, and one node ``camera_NNN`` a frame with its frustum, in glTF's axes (y up).

    A camera node's matrix is world_from_camera seen from glTF: G · world_from_camera · G with
    G = ``GLTF_FROM_OPENCV``. A .glb has no time axis; use the recording for motion.
    """
    import trimesh

    scene = read_scene(folder)
    shown = shown_pixels(scene)
    limit = max(1, GLB_POINTS // scene.num_frames)
    colours = _natural_colours(scene)
    points, tints = [], []
    for k, frame in enumerate(shown):
        chosen = even_subset(frame, limit=limit)
        points.append(scene.points[k].reshape(-1, 3)[chosen])
        tints.append(colours[k].reshape(-1, 3)[chosen])
    model = trimesh.Scene()
    if shown.any():
        vertices = np.concatenate(points) @ GLTF_FROM_OPENCV[:3, :3].T
        cloud = trimesh.PointCloud(vertices, colors=np.concatenate(tints))
        model.add_geometry(cloud, node_name="points", geom_name="points")
    for k in range(scene.num_frames):
        pose = GLTF_FROM_OPENCV @ scene.world_from_camera[k] @ GLTF_FROM_OPENCV
        name = f"camera_{k:03d}"
        model.add_geometry(_frustum(scene, frame=k), node_name=name, geom_name=f"{name}_frustum", transform=pose)
    path = out or folder / "scene.glb"
    exported = model.export(file_type="glb")
    assert isinstance(exported, bytes), "trimesh exports .glb as bytes"
    path.write_bytes(exported)
    return path


def _natural_colours(scene: RunScene) -> NDArray[np.uint8]:
    """RGB, or depth colours for geometry without a video."""
    return colour_scene(scene, colour="depth" if scene.rgb is None else "rgb")


def _frustum(scene: RunScene, *, frame: int) -> "Path3D":
    """A camera's pyramid as lines in its own glTF frame (looks along −z)."""
    from trimesh.path import Path3D
    from trimesh.path.exchange.misc import lines_to_path

    height, width = scene.size
    length = 0.12 * scene.scale
    inverse = np.linalg.inv(scene.intrinsics[frame].astype(np.float64))
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], dtype=np.float64)
    rays = (corners @ inverse.T) * length @ GLTF_FROM_OPENCV[:3, :3].T
    apex = np.zeros(3)
    lines = [np.stack([apex, ray]) for ray in rays] + [np.stack([rays[i], rays[(i + 1) % 4]]) for i in range(4)]
    return Path3D(**lines_to_path(np.stack(lines)))
