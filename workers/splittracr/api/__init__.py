"""SplitTracr in Python: `import splittracr as st`.

The functions call those of the command line. Errors are SplittracrError and its kinds
(`splittracr.experiment.errors`); InvalidInput names the argument, its value and what was expected.
"""

from splittracr.api.model import Model as Model
from splittracr.api.model import Plan as Plan
from splittracr.api.model import Split as Split
from splittracr.api.model import load as load
from splittracr.api.study import Results as Results
from splittracr.api.study import results as results
from splittracr.api.study import run as run
