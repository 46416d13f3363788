"""Programs as networks of Intel Lava processes.

Importing this package repairs and imports Lava, so that the modules of this package may simply ``import lava``; where
Lava is missing, the import raises ``BackendMissingError``. Nothing outside this package imports Lava.
"""

from resformer.compiler.backends.lava._compat import import_lava

import_lava()
