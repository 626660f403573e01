// The page that `medlens view` serves: the viewer, with the address as its memory.
import { mount, served } from "./viewer.js";

history.replaceState(null, "", location.pathname + location.hash); // the token is kept by a cookie, and is nobody else's business
mount(document.getElementById("viewer"), served());
