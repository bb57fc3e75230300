//! Anaconda: kickstart, scripts, storage, and how it gives up.

use super::super::patterns::Pattern;
use super::{BOTH, CONSOLE, LOG};

pub(in crate::diagnose) const TABLE: &[Pattern] = known! {
    // Kickstart. Nothing handles these yet: the machine would just sit there.
    BOTH OpensNext KsParse: "The following problem occurred on line" <- "pykickstart errors.py; kickstart-tests log_handler.py";
    BOTH OpensNext KsParse: "An error occurred during reading the kickstart file" <- "anaconda startup_utils.py";
    BOTH Ends KsParse: "Unable to open input kickstart file" <- "anaconda kickstart.py, pykickstart parser.py";
    // Scripts. Without --erroronfail a failure is only logged.
    BOTH OpensNext Script: "There was an error running the kickstart script at line" .. "The details of this error are:" <- "anaconda errors.py";
    BOTH Opens Script: "There was an error running the kickstart script at line" <- "anaconda errors.py";
    BOTH Cause Script: "Error code" .. "running the kickstart script at line" <- "anaconda kickstart.py; kickstart-tests#1612";
    // Storage.
    BOTH Cause Storage: "torage configuration failed:" <- "kickstart-tests log_handler.py, anaconda ui/tui/spokes/storage.py";
    BOTH Cause Storage: "in part command does not exist" <- "anaconda kickstart, partitioning";
    BOTH Cause Storage: "in ignoredisk command does not exist" <- "anaconda kickstart, disk selection";
    BOTH Cause Storage: "No usable disks" <- "anaconda storage checker";
    BOTH Cause Storage: "Unable to allocate requested partition scheme" <- "blivet partitioning.py";
    BOTH Cause Storage: "not enough free space on disks" <- "blivet partitioning.py";
    BOTH Cause Storage: "failed to find a suitable stage1 device" <- "anaconda bootloader";
    BOTH Cause Storage: "You have not defined a root partition" <- "anaconda storage checker";
    BOTH Cause Storage: "BIOS Boot partition" <- "anaconda storage checker, on GPT disks";
    BOTH Cause Storage: "occurred while installing the boot loader" <- "anaconda errors.py";
    BOTH Cause Storage: "Failed to write boot loader" <- "anaconda bootloader";
    BOTH Cause Storage: "boot loader install failed" <- "anaconda bootloader";
    BOTH Cause Storage: "StorageError:" <- "blivet errors, in tracebacks";
    BOTH Cause Storage: "FSError:" <- "blivet errors, in tracebacks";
    BOTH Cause Storage: "FormatCreateError:" <- "blivet errors, in tracebacks";
    BOTH Exact Storage: "Installation Destination" <- "anaconda: a mandatory spoke that is not completed";
    // Memory.
    BOTH Ends Oom: "of memory to install, but you only have" <- "anaconda startup_utils.py";
    BOTH Ends Oom: "ot enough RAM" <- "anaconda startup_utils.py";
    // Giving up.
    LOG Opens Installer: "Anaconda crashed on signal" <- "kickstart-tests#984";
    BOTH Opens Installer: "Process" .. "(anaconda) of user" .. "dumped core" <- "lorax monitor.py";
    LOG OpensNext Installer: "CRIT anaconda:" .. "Traceback (most recent call last)" <- "anaconda exception.py: what nothing handled";
    BOTH Note Installer: "Traceback (most recent call last)" <- "kickstart-tests#1296: some are handled";
    BOTH Opens Installer: "The installation was stopped due to" <- "microshift#3743, anaconda#931, anaconda exception.py";
    BOTH Opens Installer: "An unknown error has occured" <- "anaconda exception.py (its own spelling)";
    BOTH Opens Installer: "The following error occurred while installing.  This is a fatal error" <- "lorax monitor.py";
    BOTH Opens Installer: "Non interactive installation failed" <- "anaconda#931";
    BOTH Opens Installer: "The following mandatory spokes are not completed" <- "anaconda ui/tui/hubs/summary.py";
    BOTH Opens Installer: "traceback script(s) have been run" <- "lorax monitor.py";
    BOTH Opens Installer: "Reporting the IPMI event: 10" <- "kickstart-tests log_handler.py: IPMI_FAILED";
    CONSOLE Opens Installer: "Pane is dead" <- "tmux in anaconda.service, when anaconda died";
    LOG Note PayloadRepo: "ERR anaconda:packaging" <- "anaconda packaging.log";
    LOG Note Installer: "CRIT " <- "kickstart-tests log_handler.py";
    // Questions.
    BOTH Prompt PromptWait: "Would you like to ignore this and continue with installation?" <- "kickstart-tests log_handler.py, anaconda errors.py";
    CONSOLE Prompt PromptWait: "Press ENTER to" <- "simpleline, anaconda ui/tui";
    CONSOLE Prompt PromptWait: "Please make a selection from the above" <- "simpleline prompt.py";
    CONSOLE Prompt PromptWait: "Please respond 'yes' or 'no'" <- "simpleline, anaconda ui/tui";
    CONSOLE Prompt PromptWait: "Please make your choice from above" <- "python-meh, older simpleline";
    CONSOLE Prompt PromptWait: "Use text mode" <- "anaconda ui/tui/spokes/askvnc.py";
};
