"""Start the page: ``python app.py``. See ``python app.py --help`` for the flags."""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from demo.blocks import build_page, make_service
from demo.environment import SettingError
from demo.job_queue import PageError

ASSETS = Path(__file__).parent / "assets"

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--host", default=None, help="address to listen on, by default 127.0.0.1; 0.0.0.0 opens it to all")
parser.add_argument("--port", type=int, default=None, help="port; by default the first free one from 7860")
parser.add_argument("--preset", default="tiny", help="model preset, see: python -m vggrpo presets")
parser.add_argument("--runs", type=Path, default=None, help="where runs go, by default a temporary folder")
flags = parser.parse_args(sys.argv[1:] if __name__ == "__main__" else [])

try:
    demo = build_page(make_service(preset=flags.preset, runs=flags.runs, assets=ASSETS), assets=ASSETS)
    if __name__ == "__main__":
        demo.launch(server_name=flags.host, server_port=flags.port)
except (PageError, SettingError, OSError) as error:
    # A preset that does not exist, a port in use, a runs folder that cannot be written: one line, exit code 2.
    is_port = "empty port" in str(error)
    parser.error("the port is in use: choose another with --port" if is_port else str(error))
