"""A reader of uploads that tells what it sees of its environment."""

import json
import os
import sys
from pathlib import Path

source = Path(json.loads(sys.argv[1])["source"])
sys.stdout.write(json.dumps({"error": f"{source.name} {sorted(os.environ)}"}))
