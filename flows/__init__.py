"""The flows, one module each. Importing one shortens the log of errors (:mod:`tasks.engine.logs`)."""

from image_longitudinal.tasks.engine.logs import log_errors_in_one_line

log_errors_in_one_line()
