"""The flows. Importing one installs the log filter of :mod:`tasks.engine.logs`."""

from image_longitudinal.tasks.engine.logs import log_errors_in_one_line

log_errors_in_one_line()
