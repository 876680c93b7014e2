"""viser recordings: the 4D scene with a time axis, played by viser's own client without a server.

A recording holds the camera path, a small grey frustum for every frame, and for each moment its points and a frustum
in the accent colour that carries its frame. viser can only be recorded through its server object, which listens on a
random loopback port for the fraction of a second that a recording takes.

The same scene gives the same bytes: viser stamps no time and no random name into a recording.
"""

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scene_export.colouring import Colour, available_colours, colour_scene
from scene_export.run_scene import RunScene, read_scene
from scene_export.sampling import even_subset, shown_pixels
from scene_export.viewpoint import choose_viewpoint

if TYPE_CHECKING:
    import viser

POINTS_PER_FRAME = 8_000
"""Cap that keeps a recording near one megabyte and fluid on a phone."""

TOTAL_POINTS = 400_000
"""Cap over all frames, for long videos."""

ACCENT = (255, 90, 54)
PATH_GREY = (128, 134, 145)

_THUMBNAIL_SIDE = 128

_ONE_SERVER = threading.Lock()


def record_run(folder: Path, *, colour: Colour = "rgb", out: Path | None = None) -> Path:
    """Record a run in one colouring, as ``scene.viser`` (or ``scene.<colour>.viser``) beside its geometry.

    Geometry without a video is coloured by depth when RGB is asked for. Raises ``SceneReadError`` without geometry,
    ``ValueError`` for a colouring that the run has no data for.
    """
    scene = read_scene(folder)
    name = "scene.viser" if colour == "rgb" else f"scene.{colour}.viser"
    if colour == "rgb" and scene.rgb is None:
        colour = "depth"
    path = out or folder / name
    path.write_bytes(record_scene(scene, colours=(colour,)))
    return path


def record_all_colours(folder: Path, *, out: Path) -> Path:
    """Record a run once in every colouring that it has, one after the other on the time axis.

    With N frames at f frames a second, colouring c of frame k starts at second (c·N + k) / f. Switching the colouring
    is then a seek: it is instant and keeps the visitor's viewpoint. Order: ``available_colours``.
    """
    scene = read_scene(folder)
    out.write_bytes(record_scene(scene, colours=available_colours(scene)))
    return out


def record_scene(scene: RunScene, *, colours: tuple[Colour, ...]) -> bytes:
    """The bytes of a ``.viser`` file; see ``record_all_colours`` for its time axis."""
    shown = shown_pixels(scene)
    limit = min(POINTS_PER_FRAME, TOTAL_POINTS // scene.num_frames)
    chosen = [even_subset(frame, limit=limit) for frame in shown]
    painted = [_take(colour_scene(scene, colour=colour), chosen) for colour in colours]
    with _scene_server() as server:
        _add_viewpoint(server, scene=scene, shown=shown)
        _add_camera_path(server, scene=scene)
        moments = [server.scene.add_frame(f"/frames/{k}", show_axes=False, visible=k == 0) for k in range(len(chosen))]
        clouds = _add_moments(server, scene=scene, chosen=chosen, colours=painted[0])
        serializer = server.get_scene_serializer()
        for block, colours_of_frames in enumerate(painted):
            for k, moment in enumerate(moments):
                with server.atomic():
                    if block and k == 0:
                        for cloud, frame_colours in zip(clouds, colours_of_frames, strict=True):
                            cloud.colors = frame_colours
                    # Hidden also at k = 0, so that a loop and a new block start with one frame on show.
                    moments[k - 1].visible = False
                    moment.visible = True
                serializer.insert_sleep(1.0 / scene.fps)
        return serializer.serialize()


def export_html(recording: Path, *, out: Path, dark_mode: bool = False) -> Path:
    """viser's client with a recording inside, as one HTML file that opens without a server.

    The same page as viser's ``StateSerializer.as_html`` (a test compares them), made from a recording that exists.
    """
    page = client_page().read_text(encoding="utf-8")
    data = base64.b64encode(recording.read_bytes()).decode("ascii")
    script = (
        f'<script>window.__VISER_EMBED_DATA__="{data}";'
        f"window.__VISER_EMBED_CONFIG__={{darkMode:{str(dark_mode).lower()}}};</script>"
    )
    head_end = page.index("</head>")
    out.write_text(page[:head_end] + script + page[head_end:], encoding="utf-8")
    return out


def client_page() -> Path:
    """viser's client, one HTML file. Raises ``FileNotFoundError`` where the installed viser has none."""
    import viser

    page = Path(viser.__file__).parent / "client" / "build" / "index.html"
    if not page.exists():
        raise FileNotFoundError(f"viser's client is missing ({page}); reinstall viser")
    return page


@contextmanager
def _scene_server() -> Iterator["viser.ViserServer"]:
    """A viser server on a random loopback port, for as long as a recording takes.

    viser greets on standard output, which belongs to the command that records: rich's console is muted meanwhile.
    """
    import rich
    import viser

    console = rich.get_console()
    with _ONE_SERVER:
        was_quiet, console.quiet = console.quiet, True
        try:
            server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
            try:
                yield server
            finally:
                server.stop()
        finally:
            console.quiet = was_quiet


def _take(images: NDArray[np.uint8], chosen: list[NDArray[np.intp]]) -> list[NDArray[np.uint8]]:
    """The chosen pixels' colours [P_k, 3] of images [N, H, W, 3]."""
    return [image.reshape(-1, 3)[pixels] for image, pixels in zip(images, chosen, strict=True)]


def _add_viewpoint(server: "viser.ViserServer", *, scene: RunScene, shown: NDArray[np.bool_]) -> None:
    """Up direction and the first view."""
    view = choose_viewpoint(scene, shown=shown)
    server.scene.set_up_direction(_triple(view.up))
    server.initial_camera.position = _triple(view.position)
    server.initial_camera.look_at = _triple(view.look_at)
    server.initial_camera.up = _triple(view.up)
    server.initial_camera.fov = float(np.deg2rad(50.0))


def _add_camera_path(server: "viser.ViserServer", *, scene: RunScene) -> None:
    """The path of the camera centres as a line."""
    centres = scene.world_from_camera[:, :3, 3].astype(np.float32)
    if scene.num_frames > 1:
        segments = np.stack([centres[:-1], centres[1:]], axis=1)
        server.scene.add_line_segments("/camera_path", points=segments, colors=PATH_GREY, thickness=0.003 * scene.scale)
    server.scene.add_point_cloud(
        "/camera_centres",
        points=centres,
        colors=PATH_GREY,
        point_size=0.006 * scene.scale,
        point_shape="circle",
    )


def _add_moments(
    server: "viser.ViserServer",
    *,
    scene: RunScene,
    chosen: list[NDArray[np.intp]],
    colours: list[NDArray[np.uint8]],
) -> list["viser.PointCloudHandle"]:
    """Each frame's points and its frustum; returns the clouds."""
    height, width = scene.size
    clouds = []
    for k, pixels in enumerate(chosen):
        pose = scene.world_from_camera[k]
        focal = float(scene.intrinsics[k, 1, 1])
        clouds.append(
            server.scene.add_point_cloud(
                f"/frames/{k}/points",
                points=scene.points[k].reshape(-1, 3)[pixels],
                colors=colours[k],
                point_size=_point_size(scene, shown_points=len(pixels)),
                point_shape="circle",
                precision="float16",
            )
        )
        server.scene.add_camera_frustum(
            f"/frames/{k}/camera",
            fov=float(2.0 * np.arctan(height / (2.0 * focal))),
            aspect=width / height,
            scale=0.1 * scene.scale,
            thickness=0.004 * scene.scale,
            color=ACCENT,
            image=None if scene.rgb is None else _thumbnail(scene.rgb[k]),
            wxyz=_quaternion(pose[:3, :3]),
            position=_triple(pose[:3, 3]),
        )
    return clouds


def _point_size(scene: RunScene, *, shown_points: int) -> float:
    """Diameter at which neighbours just meet at the scene's scale, in world units."""
    height, width = scene.size
    focal = float(np.median(scene.intrinsics[:, 1, 1]))
    spacing = np.sqrt(height * width / max(shown_points, 1))
    return float(0.75 * spacing * scene.scale / focal)


def _thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame at no more than ``_THUMBNAIL_SIDE`` pixels, by whole strides."""
    stride = max(1, int(np.ceil(max(image.shape[:2]) / _THUMBNAIL_SIDE)))
    return image[::stride, ::stride]


def _quaternion(rotation: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """wxyz of a rotation matrix."""
    from viser import transforms

    w, x, y, z = (float(value) for value in transforms.SO3.from_matrix(rotation).wxyz)
    return (w, x, y, z)


def _triple(vector: NDArray[np.floating]) -> tuple[float, float, float]:
    """A vector as viser takes it."""
    x, y, z = (float(value) for value in vector)
    return (x, y, z)
