//! Anaconda: kickstart, scripts, storage, and how it gives up.

use super::super::patterns::Pattern;
use super::{BOTH, CONSOLE, LOG};

pub(in crate::diagnose) const TABLE: &[Pattern] = known! {
    // Storage first: it quotes the kickstart's line as well.
    BOTH OpensNext Storage: "torage configuration failed:" .. "on line" .. "of the kickstart" <- "anaconda#1647";
    BOTH Opens Storage: "torage configuration failed:" <- "kickstart-tests log_handler.py";
    BOTH Opens Storage: "torage configuration has failed:" <- "kickstart-tests#1213";
    // Kickstart. Nothing handles these yet: the machine would just sit there.
    BOTH OpensNext KsParse: "The following problem occurred on line" <- "kickstart-tests#1051; pykickstart errors.py";
    BOTH OpensNext KsParse: "An error occurred during reading the kickstart file" <- "anaconda startup_utils.py";
    BOTH Ends KsParse: "There was a problem reading from line" <- "pykickstart errors.py";
    BOTH Ends KsParse: "Unable to open input kickstart file" <- "anaconda kickstart.py, pykickstart parser.py";
    // Scripts. Without --erroronfail a failure is only logged.
    BOTH OpensNext Script: "There was an error running the kickstart script at line" .. "The details of this error are:" <- "anaconda errors.py";
    BOTH Opens Script: "There was an error running the kickstart script at line" <- "image-builder#2093; anaconda errors.py";
    BOTH Cause Script: "Error code" .. "running the kickstart script at line" <- "anaconda kickstart.py; kickstart-tests#1612";
    // Storage.
    BOTH Cause Storage: "in part command does not exist" <- "anaconda kickstart, partitioning";
    BOTH Cause Storage: "in ignoredisk command does not exist" <- "anaconda kickstart, disk selection";
    BOTH Cause Storage: "StorageConfigurationError:" <- "kickstart-tests#829, #857, #907";
    BOTH Cause Storage: "No usable disks" <- "kickstart-tests#1213";
    BOTH Cause Storage: "Failed to create storage layout:" <- "kickstart-tests#884";
    BOTH Cause Storage: "Unable to allocate requested partition scheme" <- "blivet partitioning.py";
    BOTH Cause Storage: "not enough free space on disks" <- "blivet partitioning.py";
    BOTH Cause Storage: "ailed to find a suitable stage1 device" <- "anaconda bootloader";
    BOTH Cause Storage: "You have not defined a root partition" <- "anaconda storage checker";
    BOTH Cause Storage: "needs a special partition to boot from a GPT disk label" <- "anaconda storage checker";
    BOTH Cause Storage: "Installation Destination" .. "(Kickstart insufficient)" <- "anaconda ui/tui/spokes/installation_destination.py";
    BOTH Cause Storage: "occurred while installing the boot loader" <- "rhel-edge#8045; anaconda errors.py";
    BOTH Cause Storage: "ailed to write boot loader configuration" <- "rhel-edge#8045, #10848";
    BOTH Cause Storage: "boot loader install failed" <- "anaconda bootloader";
    BOTH Cause Storage: "StorageError:" <- "blivet errors, in tracebacks";
    BOTH Cause Storage: "FSError:" <- "blivet errors, in tracebacks";
    BOTH Cause Storage: "format creation failed" <- "blivet formats";
    BOTH Cause Storage: "FormatCreateError:" <- "blivet errors, in tracebacks";
    BOTH Exact Storage: "Installation Destination" <- "anaconda: a mandatory spoke that is not completed";
    // Memory.
    BOTH Ends Oom: "MB of memory to install, but you only have" <- "anaconda startup_utils.py";
    // Giving up.
    LOG Ends Installer: "Anaconda crashed on signal" <- "kickstart-tests#984";
    BOTH Ends Installer: "Process" .. "(anaconda) of user" .. "dumped core" <- "kickstart-tests#992; lorax monitor.py";
    LOG OpensNext Installer: "CRIT anaconda:" .. "Traceback (most recent call last)" <- "kickstart-tests#1214: what nothing handled";
    BOTH Note Installer: "Traceback (most recent call" <- "kickstart-tests#1296: some are handled";
    BOTH Opens Storage: "The installation was stopped due to" .. "problem with your hardware" <- "anaconda exception.py";
    BOTH Opens Installer: "The installation was stopped due to" <- "microshift#3743, anaconda#931, anaconda exception.py";
    BOTH Opens Installer: "An unknown error has occured" <- "rhel-edge#10848 (its own spelling)";
    BOTH Opens Installer: "Running in cmdline mode, no interactive debugging allowed" <- "lorax#1420";
    BOTH Opens Installer: "The exact error message is:" <- "coreos-assembler#487: the line before was lost";
    BOTH Opens Installer: "The following error occurred while installing.  This is a fatal error" <- "lorax monitor.py";
    BOTH Opens Installer: "Non interactive installation failed" <- "anaconda#931";
    BOTH Opens Installer: "The following mandatory spokes are not completed" <- "kickstart-tests#1005, #1214";
    BOTH Opens Installer: "traceback script(s) have been run" <- "lorax monitor.py";
    BOTH Opens Installer: "Reporting the IPMI event: 10" <- "kickstart-tests log_handler.py: IPMI_FAILED";
    CONSOLE Opens Installer: "Pane is dead" <- "tmux in anaconda.service, when anaconda died";
    LOG Note PayloadRepo: "ERR anaconda:packaging" <- "anaconda packaging.log";
    LOG Note Installer: "CRIT " <- "kickstart-tests log_handler.py";
    // Questions.
    BOTH Prompt PromptWait: "Would you like to ignore this and continue with installation?" <- "kickstart-tests log_handler.py, anaconda errors.py";
    CONSOLE Prompt PromptWait: "Press ENTER to" <- "image-builder#2093; simpleline";
    CONSOLE Prompt PromptWait: "Press [Enter] to" <- "anaconda startup_utils.py";
    CONSOLE Prompt PromptWait: "Please make a selection from the above" <- "robox#180; simpleline";
    CONSOLE Prompt PromptWait: "Please respond 'yes' or 'no'" <- "rhel-edge#8045";
    CONSOLE Prompt PromptWait: "Please make your choice from above" <- "xcat-core#5509, open-power-host-os#316: python-meh";
    CONSOLE Prompt PromptWait: "Use text mode" <- "anaconda ui/tui/spokes/askvnc.py";
};
