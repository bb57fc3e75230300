//! Repositories, packages, scriptlets.

use super::super::patterns::Pattern;
use super::{BOTH, LOG};

pub(in crate::diagnose) const TABLE: &[Pattern] = known! {
    // Scriptlets: a half-configured package does not belong in an image.
    BOTH Opens Scriptlet: "Error in POSTIN scriptlet in rpm package" <- "kickstart-tests#1151; lorax monitor.py, from dnf";
    BOTH Opens Scriptlet: "Error in PREIN scriptlet in rpm package" <- "dnf yum/rpmtrans.py";
    BOTH Opens Scriptlet: "Error in POSTTRANS scriptlet in rpm package" <- "kickstart-tests#1700, log_handler.py";
    BOTH Opens Scriptlet: "Error in <unknown> scriptlet in rpm package" <- "kickstart-tests log_handler.py";
    BOTH Cause Scriptlet: "scriptlet failure in rpm package" <- "lorax#157";
    LOG Note Scriptlet: "scriptlet failed, exit status" <- "rpm lib/rpmscript.c: a warning for some scriptlets";
    // Room.
    BOTH Cause Storage: "Not enough space in file systems for the current software selection" <- "kickstart-tests#849, kickstart-tests log_handler.py";
    BOTH Cause Storage: "Not enough disk space to download the packages" <- "lorax monitor.py";
    BOTH Cause Storage: "insufficient disk space:" <- "lorax monitor.py";
    BOTH Cause Storage: "more space needed on the" .. "filesystem" <- "rpm lib/rpmprob.c";
    BOTH Cause Storage: "installing package" .. "needs" .. "filesystem" <- "kickstart-tests#1043; rpm lib/rpmprob.c";
    BOTH Cause Storage: "cpio:" .. "No space left on device" <- "rpm lib/fsm.c";
    // What to install.
    BOTH Cause PayloadRepo: "Missed: NoSuchPackage" <- "lorax monitor.py";
    BOTH Cause PayloadRepo: "Missed: NoSuchGroup" <- "anaconda packaging";
    BOTH Cause PayloadRepo: "issing packages:" <- "kickstart-tests#1190; anaconda payload/dnf/validation.py";
    BOTH Cause PayloadRepo: "No match for argument:" <- "kickstart-tests#660, from dnf";
    BOTH Cause PayloadRepo: "issing groups:" <- "anaconda payload/dnf/validation.py";
    BOTH Cause PayloadRepo: "Some packages, groups or modules are missing" <- "anaconda payload/dnf/validation.py";
    BOTH Cause PayloadRepo: "Some packages, groups or modules are broken" <- "kickstart-tests log_handler.py";
    BOTH Cause PayloadRepo: "Stream was not specified for a module" <- "kickstart-tests log_handler.py";
    BOTH Cause PayloadRepo: "Modular dependency problem:" <- "kickstart-tests log_handler.py";
    BOTH Cause PayloadRepo: "nothing provides" .. "needed by" <- "libsolv problems.c";
    BOTH Cause PayloadRepo: "conflicting requests" <- "libsolv problems.c";
    BOTH Cause PayloadRepo: "error populating transaction after" <- "lorax monitor.py";
    // Where from.
    BOTH Cause PayloadRepo: "Payload setup error:" <- "kickstart-tests log_handler.py";
    BOTH Cause PayloadRepo: "base repo" .. "not valid" <- "lorax monitor.py";
    BOTH Cause PayloadRepo: "base repository is invalid" <- "kickstart-tests#926";
    BOTH Cause PayloadRepo: "Error setting up software" <- "robox#180, image-builder#2046: cut at 40 columns";
    BOTH Cause PayloadRepo: "Error setting up base repository" <- "anaconda ui/tui/spokes/installation_source.py";
    BOTH Cause PayloadRepo: "Failed to set up installation source" <- "anaconda ui/tui/spokes/software_selection.py";
    BOTH Cause PayloadRepo: "Failed to download metadata" <- "kickstart-tests#926, #949; dnf repo.py";
    BOTH Cause PayloadRepo: "Failed to download the following packages" <- "kickstart-tests#1317; anaconda payload/dnf/dnf_manager.py";
    BOTH Cause PayloadRepo: "Cannot prepare internal mirrorlist" <- "librepo";
    BOTH Cause PayloadRepo: "All mirrors were already tried without success" <- "librepo";
    BOTH Cause PayloadRepo: "Curl error (" <- "librepo";
    BOTH Cause PayloadRepo: "The following error occurred while setting up the payload" <- "anaconda errors.py";
    BOTH Cause PayloadRepo: "SourceSetupError:" <- "kickstart-tests#949";
    BOTH Cause MediaCheck: "incorrect checksum" <- "dnf base.py: a package of the medium is damaged";
    // The transaction.
    BOTH Cause PayloadRepo: "Transaction check error:" <- "kickstart-tests log_handler.py";
    BOTH Cause PayloadRepo: "packaging: Installation failed" <- "lorax monitor.py";
    BOTH Cause Scriptlet: "An error occurred during the transaction:" .. "scriptlet" <- "anaconda transaction_progress.py";
    BOTH Cause PayloadRepo: "An error occurred during the transaction:" <- "anaconda transaction_progress.py";
    BOTH Cause PayloadRepo: "Error unpacking rpm package" <- "dnf yum/rpmtrans.py";
    BOTH Cause PayloadRepo: "The following error occurred while installing the payload" <- "anaconda errors.py";
    BOTH Exact PayloadRepo: "Installation source" <- "kickstart-tests#1005: a mandatory spoke that is not completed";
    BOTH Exact PayloadRepo: "Software selection" <- "kickstart-tests#1005, #1214: a mandatory spoke that is not completed";
};
