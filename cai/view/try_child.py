"""`cai` as the child of a viewer: it ends with the viewer, however that ends."""

from __future__ import annotations

from cai.cli import main
from cai.process import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    main()
