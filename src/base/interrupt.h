#pragma once

namespace fathom {

/// Makes SIGINT and SIGTERM set a flag instead of ending the process, and SIGPIPE and SIGXFSZ ignored (writes then fail
/// with a reason). A second SIGINT while the flag is set ends the process. Called once, by the program.
void install_interrupt_handler();

/// True after SIGINT or SIGTERM, until `clear_interrupt`.
bool interrupted();
void clear_interrupt();

/// Throws `failure` ("interrupted") if `interrupted()`; long loops call it, so that destructors remove partial files.
void check_interrupt();

}  // namespace fathom
